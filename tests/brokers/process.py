"""A process, as a broker sees it: what is delivered to it, and what it is told."""

from collections import defaultdict
from collections.abc import Iterable

import attrs
import trio

from streamrt import History
from streamrt.brokers import BrokerStatistics, RedisBroker
from streamrt.runtime.broker import Broker, Channel, Position, Publication
from streamrt.wire.transport import Frame

ROOM, OTHER = Channel("chat", "lobby"), Channel("chat", "kitchen")
HISTORY = History()


def texts(publications: Iterable[Publication]) -> list[str]:
    return [publication.frame.message for publication in publications]


@attrs.define(eq=False)
class Process:
    """A process that has a broker, which runs, and what was delivered to it."""

    broker: Broker
    delivered: defaultdict[Channel, list[Publication]] = attrs.Factory(
        lambda: defaultdict[Channel, list[Publication]](list)
    )
    lost: defaultdict[Channel, list[Position | None]] = attrs.Factory(
        lambda: defaultdict[Channel, list[Position | None]](list)
    )
    _news: trio.Event = attrs.Factory(trio.Event)

    def __attrs_post_init__(self) -> None:
        self.broker.deliver, self.broker.lose = self._deliver, self._lose

    def _deliver(self, channel: Channel, publication: Publication) -> None:
        self.delivered[channel].append(publication)
        self._news.set()
        self._news = trio.Event()

    def _lose(self, channel: Channel, position: Position | None) -> None:
        self.lost[channel].append(position)
        self._news.set()
        self._news = trio.Event()

    @property
    def statistics(self) -> BrokerStatistics:
        assert isinstance(self.broker, RedisBroker)
        return self.broker.statistics()

    async def publish(self, channel: Channel, *messages: str, history: History | None = None) -> None:
        for message in messages:
            await self.broker.publish(channel, Publication(Frame(message.encode())), history)

    async def keep(self, *messages: str, channel: Channel = ROOM, history: History = HISTORY) -> str:
        """Publish messages to a channel that has a history; return the position behind them."""
        await self.publish(channel, *messages, history=history)
        return str((await self.broker.replay(channel, None, history)).position)

    async def heard(self, channel: Channel, count: int) -> list[str]:
        """Wait until so many messages have been delivered; return all that have."""
        while len(self.delivered[channel]) < count:
            await self._news.wait()
        return texts(self.delivered[channel])

    async def told_of_a_loss(self, channel: Channel) -> None:
        while not self.lost[channel]:
            await self._news.wait()

    async def all_is_delivered(self) -> None:
        """Wait for a message that is published after all others, on a channel of its own."""
        last = Channel("last", str(len(self.delivered)))
        await self.broker.subscribe(last)
        await self.publish(last, "0")
        await self.heard(last, 1)
        self.broker.unsubscribe(last)

    async def missed(
        self, since: str | None, *, channel: Channel = ROOM, history: History = HISTORY
    ) -> tuple[list[str], bool]:
        """Return what is replayed, and whether that is everything."""
        replay = await self.broker.replay(channel, since, history)
        epoch, end = replay.position.epoch, replay.position.offset
        positions = [publication.position for publication in replay.publications]
        assert positions == [Position(epoch, offset) for offset in range(replay.start.offset + 1, end + 1)]
        return texts(replay.publications), replay.recovered
