"""What the price board does for those who read, and for those who do not, in memory and in virtual time."""
# ruff: noqa: ARG001 - a test asks for virtual time by naming the clock

import json
from collections import Counter

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from services import app
from streamrt import Ended, StreamIn, testing

from .endpoints import all_prices, prices
from .market import STEP_CENTS, STEP_SECONDS, SYMBOLS, Market, every, latest
from .types import Price


async def read(stream: StreamIn[Price], count: int) -> list[Price]:
    """Return the next prices of a stream."""
    return [await stream.receive() for _ in range(count)]


# Who reads.


async def test_each_price_comes_at_once_and_then_fifty_times_a_second(autojump_clock: MockClock) -> None:
    async with testing.no_tasks_left(), app.client() as client, client.open(prices) as stream:
        heard = await read(stream, 100 * 51)
        assert trio.current_time() == pytest.approx(1)
    assert Counter(price.symbol for price in heard) == dict.fromkeys(SYMBOLS, 51)
    assert sorted({price.at for price in heard}) == list(range(0, 1001, 20))


async def test_who_reads_gets_the_same_prices_from_both(autojump_clock: MockClock) -> None:
    async with app.client() as client, client.open(prices) as fresh, client.open(all_prices) as complete:
        both = [[price for price in await read(stream, 5100) if 20 <= price.at <= 980] for stream in (fresh, complete)]
    assert both[0] == both[1]
    assert len(both[0]) == 4900


async def test_a_price_moves_by_a_step_and_never_to_nothing(autojump_clock: MockClock) -> None:
    market, cents = Market(seed=7, cents=STEP_CENTS), dict.fromkeys(SYMBOLS, STEP_CENTS)
    for _ in range(1000):
        for price in market.move():
            assert price.cents >= 1
            assert abs(price.cents - cents[price.symbol]) <= STEP_CENTS
            cents[price.symbol] = price.cents
            assert price.at == 0
    assert min(cents.values()) < STEP_CENTS < max(cents.values())


async def test_the_same_seed_walks_the_same_way(autojump_clock: MockClock) -> None:
    one, same, other = (Market(seed) for seed in (1, 1, 2))
    walk = list(one.move())
    assert walk == list(same.move())
    assert walk != list(other.move())


# Who does not.


async def test_who_does_not_read_the_newest_prices_stays_and_misses_what_is_out_of_date(
    autojump_clock: MockClock,
) -> None:
    async with testing.connect(app, "/prices", stalled=True) as peer:
        await trio.sleep(10)
        await wait_all_tasks_blocked()
        peer.resume()
        heard: list[Price] = []
        while sum(price.at == 10_000 for price in heard) < len(SYMBOLS):
            heard.append(Price(**json.loads(await peer.receive())))
        assert trio.current_time() == pytest.approx(10)
        assert peer.ended is None
    assert sorted(price.symbol for price in heard[-100:]) == list(SYMBOLS)
    assert {price.at for price in heard[-100:]} == {10_000}
    counted = latest.statistics()
    assert counted.published == 50_100
    assert counted.dropped == counted.published - len(heard) > 49_000


async def test_who_does_not_read_every_price_is_cut_off(autojump_clock: MockClock) -> None:
    async with testing.no_tasks_left(), testing.connect(app, "/prices/all", stalled=True) as peer:
        await trio.sleep(10)
        peer.resume()
        assert await peer.closed() == Ended("peer", 4429, "resource_exhausted: too far behind topic ticker.every")


async def test_who_does_not_read_keeps_nobody_else_waiting(autojump_clock: MockClock) -> None:
    async with (
        app.client() as client,
        client.open(all_prices) as stream,
        testing.connect(app, "/prices", stalled=True),
        testing.connect(app, "/prices/all", stalled=True),
    ):
        heard = await read(stream, 100 * 501)
        assert trio.current_time() == pytest.approx(10)
    assert [price.at for price in heard[::100]] == list(range(0, 10_001, 20))


# Nobody.


async def test_prices_stand_still_while_nobody_watches(autojump_clock: MockClock) -> None:
    async with app.client() as client:
        await trio.sleep(10)
        assert latest.statistics().published == every.statistics().published == 0
        async with client.open(prices) as stream, client.open(all_prices):
            await read(stream, 100)
        await wait_all_tasks_blocked()
        before = latest.statistics().published
        await trio.sleep(10)
        assert latest.statistics().published == before
        async with client.open(prices) as stream:
            assert await read(stream, 1)
            assert trio.current_time() <= 20 + STEP_SECONDS


async def test_a_watcher_that_leaves_does_not_stop_the_prices_of_another(autojump_clock: MockClock) -> None:
    async with app.client() as client, client.open(prices) as stream:
        async with testing.connect(app, "/prices/all") as other:
            await other.receive()
            other.vanish()
        await trio.sleep(1)
        assert len(await read(stream, 100 * 51)) == 5100
