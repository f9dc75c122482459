"""Where prices come from: a hundred of them, which walk at random while somebody watches."""

from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from random import Random
from typing import final

import trio

from streamrt import Topic

from .types import Price

SYMBOLS = tuple(first + second for first in "ABCDEFGHIJ" for second in "KLMNOPQRST")

STEP_SECONDS = 0.02
"""Each price moves 50 times a second: 5000 messages, unless the machine is too slow for that."""

OPENING_CENTS = 10_000
STEP_CENTS = 25

latest = Topic("ticker.latest", Price, when_full="latest", latest_by=lambda price: price.symbol)
every = Topic("ticker.every", Price, when_full="disconnect")


@final
class Market:
    """A random walk of each price.

    Args:
        seed: The same walk for the same number.
    """

    def __init__(self, seed: int = 1) -> None:
        self._random = Random(seed)  # noqa: S311 - no secrets here
        self._cents = dict.fromkeys(SYMBOLS, OPENING_CENTS)
        self._watchers = 0
        self._watched = trio.Event()

    @contextmanager
    def watched(self) -> Generator[None]:
        """Let prices move for as long as the block lasts."""
        self._watchers += 1
        self._watched.set()
        try:
            yield
        finally:
            self._watchers -= 1
            if not self._watchers:
                self._watched = trio.Event()

    async def run(self) -> None:
        """Publish each price whenever it moves; while nobody watches, sleep."""
        while True:
            await self._watched.wait()
            begin = trio.current_time()
            for price in self.move():
                await latest.publish(price)
                await every.publish(price)
            await trio.sleep_until(begin + STEP_SECONDS)

    def move(self) -> Iterator[Price]:
        """Move every price by a step."""
        at = round(trio.current_time() * 1000)
        for symbol, cents in self._cents.items():
            self._cents[symbol] = max(1, cents + self._random.randint(-STEP_CENTS, STEP_CENTS))
            yield Price(symbol, self._cents[symbol], at)


@asynccontextmanager
async def open_market(nursery: trio.Nursery) -> AsyncGenerator[Market]:
    """Run a market for as long as the app runs: its lifespan."""
    market = Market()
    nursery.start_soon(market.run)
    yield market
