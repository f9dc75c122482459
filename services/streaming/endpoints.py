"""The three kinds of endpoint, each as small as it can be."""

import logging

import trio

from streamrt import APIError, Service, StreamIn, StreamInOut, StreamOut

from .types import Answer, Choose, Chunk, LogRow, Prompt, Tail, Upload, Uploaded

MAX_UPLOAD = 64_000_000
"""Characters that one upload may have."""

ROW_SECONDS = 0.5
STEP_SECONDS = 0.05

logger = logging.getLogger(__name__)
service = Service("streaming")


@service.stream_in("/upload", expose=True)
async def upload(handshake: Upload, stream: StreamIn[Chunk]) -> Uploaded:
    """Count chunks until one of them is the last, and answer once."""
    count = size = 0
    async for chunk in stream:
        count += 1
        size += len(chunk.data)
        if size > MAX_UPLOAD:
            raise APIError.resource_exhausted(f"an upload may have {MAX_UPLOAD} characters")
        if chunk.done:
            logger.info("%s has uploaded %d chunks, %d characters", handshake.user, count, size)
            return Uploaded(success=True)
    # The client has left in the middle, and nobody is there to read a response; or it has said that no more comes.
    logger.info("%s has left an upload after %d chunks", handshake.user, count)
    return Uploaded(success=False)


@service.stream_out("/logs", expose=True)
async def logs(handshake: Tail, stream: StreamOut[LogRow]) -> None:
    """Send a row every half second; returning is what ends the stream."""
    begin = trio.current_time()
    for row in range(handshake.rows):
        await trio.sleep_until(begin + row * ROW_SECONDS)  # not sleep(): the time that `send` takes does not add up
        await stream.send(LogRow(f"Log row {row + 1}"))


@service.stream_in_out("/ai-chat", expose=True)
async def ai_chat(handshake: Choose, stream: StreamInOut[Prompt, Answer]) -> None:
    """Answer each prompt, one after another, by its letters in reverse order."""
    async for prompt in stream:
        answer = f"{handshake.model} read that backwards: {prompt.prompt[::-1]}"
        for length in range(1, len(answer)):
            await stream.send(Answer(answer[:length], done=False))
            await trio.sleep(STEP_SECONDS)
        await stream.send(Answer(answer, done=True))
