"""A broker on another host: ``python -m tests.brokers.far URL``. It is commanded by stdin, and tells what it sees."""

import sys

import trio

from streamrt import APIError
from streamrt.brokers import RedisBroker
from streamrt.runtime.broker import Channel, Position, Publication
from streamrt.wire.transport import Frame
from tests.brokers.process import HISTORY, ROOM


def tell(*words: object) -> None:
    print(*words, flush=True)  # noqa: T201


async def main(url: str) -> None:
    broker = RedisBroker(url, ping_interval=0.1, ping_timeout=0.5, max_pause=0.05)

    def deliver(_channel: Channel, publication: Publication) -> None:
        tell("heard", publication.frame.message)

    def lose(_channel: Channel, _position: Position | None) -> None:
        tell("lost")

    async def watch() -> None:
        connected = True
        while True:
            await trio.sleep(0.01)
            if broker.connected != connected:
                connected = broker.connected
                tell("up" if connected else "down")

    async def publish(text: str) -> None:
        try:
            await broker.publish(ROOM, Publication(Frame(text.encode())), HISTORY)
        except APIError as error:
            tell("refused", error.code)

    broker.deliver, broker.lose = deliver, lose
    async with broker.running(), trio.open_nursery() as nursery:
        await broker.subscribe(ROOM)
        await broker.replay(ROOM, None, HISTORY)  # as a topic does, so that it is caught up with
        nursery.start_soon(watch)
        tell("ready")
        async for text in trio.wrap_file(sys.stdin):
            await publish(text.strip())
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
