"""What plain ASGI on hypercorn cannot keep, measured beside streams that have adopted their connection.

`python -m benchmarks.promises` prints a table in Markdown. In the first column three handlers are written as an ASGI
application, in the second as streams; the server is the same.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, final

import hypercorn.trio
import trio
from hypercorn.config import Config
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.uri import parse_uri

import streamrt
from streamrt import App, Service, StreamIn, StreamInOut, StreamOut

BIG = "x" * (16 << 20)  # more than the kernel's buffers hold

api = Service("promises")
seen: list[str] = []


@api.stream_out("/stall", expose=True, send_timeout=60)
async def stall(stream: StreamOut[str]) -> None:
    """Send to a peer that does not read, for half a second."""
    begin = trio.current_time()
    try:
        with trio.move_on_after(0.5):
            while True:
                await stream.send(BIG)
    finally:
        seen.append(f"{trio.current_time() - begin:.1f} s")


@api.stream_in("/answer", expose=True)
async def answer(stream: StreamIn[str]) -> str:
    """Answer the first message."""
    return await stream.receive()


@api.stream_in_out("/codes", expose=True)
async def codes(stream: StreamInOut[str, str]) -> None:
    """Note with which code the client closes."""
    async for message in stream:
        await stream.send(message)
    seen.append(str(stream.ended.code if stream.ended is not None else None))


app = App(api)


async def plain(scope: Any, receive: Any, send: Any) -> None:
    """The same three as an ASGI application."""
    if scope["type"] != "websocket":
        for phase in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{phase}.complete"})
        return
    await receive()
    await send({"type": "websocket.accept"})
    match scope["path"]:
        case "/stall":
            begin = trio.current_time()
            try:
                with trio.move_on_after(0.5):
                    await send({"type": "websocket.send", "text": BIG})
            finally:
                seen.append(f"{trio.current_time() - begin:.1f} s")
        case "/answer":
            await receive()
            await send({"type": "websocket.send", "text": "the answer"})
            await send({"type": "websocket.close"})
        case _:
            while (event := await receive())["type"] != "websocket.disconnect":
                await send({"type": "websocket.send", "text": event["text"]})
            seen.append(str(event["code"]))


@final
class Peer:
    """A client without manners."""

    def __init__(self, stream: trio.SocketStream, protocol: ClientProtocol) -> None:
        self.stream = stream
        self.protocol = protocol
        self.frames: list[Frame] = []
        self.reset = False

    async def say(self, *texts: str) -> None:
        """Send messages."""
        for text in texts:
            self.protocol.send_text(text.encode())
        await self.flush()

    async def flush(self) -> None:
        """Send what there is to send."""
        for data in self.protocol.data_to_send():
            if data:
                await self.stream.send_all(data)

    async def read(self) -> bool:
        """Read once; return whether the connection goes on."""
        try:
            data = await self.stream.receive_some()
        except trio.BrokenResourceError:
            self.reset, data = True, b""
        if data:
            self.protocol.receive_data(data)
        else:
            self.protocol.receive_eof()
        self.frames += [event for event in self.protocol.events_received() if isinstance(event, Frame)]
        return bool(data)


@asynccontextmanager
async def connected(url: str, path: str, *, deflate: bool = False) -> AsyncGenerator[Peer]:
    """Connect a peer."""
    uri = parse_uri(url.replace("http", "ws", 1) + path)
    extensions = [ClientPerMessageDeflateFactory(client_max_window_bits=15)] if deflate else None
    protocol = ClientProtocol(uri, extensions=extensions, max_size=None)
    async with await trio.open_tcp_stream(uri.host, uri.port) as stream:
        peer = Peer(stream, protocol)
        protocol.send_request(protocol.connect())
        await peer.flush()
        while protocol.state.name == "CONNECTING":
            await peer.read()
        yield peer


async def stalled(url: str) -> str:
    """`move_on_after(0.5)` around a send to a peer that reads nothing for 3 s."""
    async with connected(url, "/stall"):
        await trio.sleep(3)
    await trio.sleep(0.5)
    return f"left after {seen.pop()}" if seen else "never left"


async def answered(url: str) -> str:
    """Answers that arrive while the client still sends, and how many connections are reset."""
    answers = resets = 0
    for _ in range(30):
        async with connected(url, "/answer") as peer:
            await peer.say('"go"')
            try:
                for _ in range(40):
                    await peer.say(*['"more"'] * 500)
            except trio.BrokenResourceError:
                peer.reset = True
            with trio.move_on_after(1):
                while await peer.read():
                    pass
            answers += any(frame.opcode is Opcode.TEXT for frame in peer.frames)
            resets += peer.reset
    return f"{answers} of 30, {resets} reset"


async def closed(url: str) -> str:
    """The code that the handler sees when the client closes with 4001."""
    async with connected(url, "/codes") as peer:
        peer.protocol.send_close(4001, "bye")
        await peer.flush()
        while await peer.read():
            pass
    await trio.sleep(0.2)  # the handler has heard of it by then
    return seen.pop() if seen else "nothing"


async def compressed(url: str) -> str:
    """Whether an offer of compression is accepted that nobody has asked for."""
    async with connected(url, "/codes", deflate=True) as peer:
        return "accepted" if peer.protocol.extensions else "refused"


async def left(servable: Any) -> str:
    """What the client of an idle stream gets when the server is cancelled."""
    async with trio.open_nursery() as nursery:
        url = await nursery.start(_serve, servable)
        async with connected(url, "/codes") as peer:
            await peer.say('"here"')
            await peer.read()
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                while await peer.read():
                    pass
    close = peer.protocol.close_rcvd
    return "no Close" if close is None else f"Close {close.code}"


async def _serve(servable: Any, task_status: trio.TaskStatus[str]) -> None:
    config = Config()
    config.errorlog = None
    async with trio.open_nursery() as nursery:
        if servable is app:
            [url] = await nursery.start(partial(streamrt.serve, app, "127.0.0.1:0", config=config))
        else:
            config.bind = ["127.0.0.1:0"]
            [url] = await nursery.start(getattr(hypercorn.trio, "serve"), servable, config)  # noqa: B009 - half typed
        task_status.started(url)


async def main() -> None:
    """Measure both, and print the table."""
    print("| | plain ASGI | adopted |\n|---|---|---|")
    for measure in (stalled, answered, closed, compressed, left):
        row: list[str] = []
        for servable in (plain, app):
            if measure is left:
                row.append(await left(servable))
            else:
                async with trio.open_nursery() as nursery:
                    url = await nursery.start(_serve, servable)
                    row.append(await measure(url))
                    nursery.cancel_scope.cancel()
        print(f"| {str(measure.__doc__).rstrip('.')} | {row[0]} | {row[1]} |")


if __name__ == "__main__":
    trio.run(main)
