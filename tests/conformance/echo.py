"""The server under test: every message comes back as it came, text as text and binary as binary.

`python -m tests.conformance.echo` serves on a free port of 127.0.0.1; its first line of output is the URL.

The streams of streamrt are typed, send JSON, and send it as text; the cases are about what is below the types. So the
handler goes to the connection that its stream stands on, and makes the binary frames itself. What else the cases need:

- messages of 16 MiB: the largest of 9.1 and 9.2;
- no heartbeat: at a Ping in a timed case (9, 12, 13) kosoku closes, and fails the case;
- compression of the smallest messages too: at one that is not compressed, though that may be, kosoku stumbles.
"""

import logging
import sys
from typing import Any

import trio
from hypercorn.config import Config

import streamrt
from streamrt import App, Deflate, Limits, Service, StreamInOut
from streamrt.wire.frames import compressed_frame, data_frame
from streamrt.wire.transport import Frame

MAX_MESSAGE_BYTES = 16 * 2**20
BINARY = 0x03  # what is to be flipped of the first byte of a text frame (opcode 1) for a binary one (opcode 2)

service = Service("conformance")


@service.stream_in_out("/", expose=True)
async def echo(stream: StreamInOut[Any, Any]) -> None:
    """Send back what comes."""
    connection: Any = stream._port  # pyright: ignore[reportPrivateUsage]
    while True:
        payload = await connection.receive()
        if isinstance(payload, str):
            await connection.send(Frame(payload.encode()))
        else:
            await connection.send(Frame.ready(binary_frame(payload, connection._transport._deflate)))


def binary_frame(payload: bytes, deflate: Any) -> bytes:
    """Return a message as a binary frame, compressed if that was agreed on."""
    frame = data_frame(payload) if deflate is None else compressed_frame(payload, deflate)
    return bytes((frame[0] ^ BINARY,)) + frame[1:]


async def main() -> None:
    """Serve until the process ends."""
    limits = Limits(
        max_message_bytes=MAX_MESSAGE_BYTES,
        receive_bytes=MAX_MESSAGE_BYTES,
        send_bytes=2 * MAX_MESSAGE_BYTES,
        ping_interval=None,
        compression=Deflate(threshold=0),
    )
    config = Config()
    config.errorlog = logging.getLogger("hypercorn.error")  # which says warnings and worse, on standard error
    async with trio.open_nursery() as nursery:

        async def serve(task_status: trio.TaskStatus[list[str]]) -> None:
            await streamrt.serve(App(service, limits=limits), "127.0.0.1:0", config=config, task_status=task_status)

        [url] = await nursery.start(serve)
        sys.stdout.write(f"{url}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    trio.run(main)
