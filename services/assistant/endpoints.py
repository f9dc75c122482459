"""One stream, many answers: a nursery holds them, and each has a cancel scope of its own."""

import trio

from streamrt import APIError, Service, StreamInOut

from .chain import Chain, read_documentation
from .types import Ask, Cancel, Finished, Token

ANSWERS = 4
"""How many answers may be coming at a time, for one stream."""

TOKEN_SECONDS = 0.08

service = Service("assistant")
chain = Chain(read_documentation())


@service.stream_in_out("/assistant", expose=True)
async def talk(stream: StreamInOut[Ask | Cancel, Token | Finished]) -> None:
    """Answer questions, several at a time; a `Cancel` stops one answer, and leaves the others and the stream alone."""
    scopes: dict[int, trio.CancelScope] = {}

    async def answer(ask: Ask, scope: trio.CancelScope) -> None:
        with scope:
            for text in chain.tokens(ask.prompt):
                await stream.send(Token(ask.answer, text))
                await trio.sleep(TOKEN_SECONDS)
        del scopes[ask.answer]
        await stream.send(Finished(ask.answer, "canceled" if scope.cancelled_caught else "whole"))

    async with trio.open_nursery() as nursery:
        async for message in stream:
            scope = scopes.get(message.answer)
            match message:
                case Cancel() if scope is not None:
                    scope.cancel()
                case Ask() if scope is not None:
                    raise APIError.already_exists(f"answer {message.answer} is still coming: number another one")
                case Ask() if len(scopes) == ANSWERS:
                    await stream.send(Finished(message.answer, "busy"))
                case Ask():
                    scopes[message.answer] = trio.CancelScope()
                    nursery.start_soon(answer, message, scopes[message.answer])
                case Cancel():
                    pass  # it was finished while this was on its way
