"""The closing handshake: it goes out, and it ends in time."""

import attrs
import trio
import trio.testing

from streamrt import Ended, Limits
from tests.runtime.stage import Deliverer, Recorder, connect


async def test_a_close_that_hangs_is_aborted_after_close_timeout(autojump_clock) -> None:
    class Hanging(Recorder):
        async def wait_closed(self) -> None:
            await trio.sleep_forever()

    transport = Hanging()
    async with connect(transport, limits=Limits(close_timeout=3)).open():
        pass
    assert trio.current_time() == 3
    assert transport.calls[-1] == ("abort", 1006, "")


async def test_a_cancelled_block_does_not_wait_for_the_peers_close(autojump_clock) -> None:
    class Hanging(Recorder):
        async def wait_closed(self) -> None:
            raise AssertionError("nobody asked for this")

    connection = connect(Hanging())
    with trio.move_on_after(1):
        async with connection.open():
            await trio.sleep_forever()
    assert trio.current_time() == 1
    assert connection.ended == Ended("scope", 1001)


async def test_a_cancellation_ends_the_wait_for_the_peers_close(autojump_clock) -> None:
    class Hanging(Recorder):
        async def wait_closed(self) -> None:
            await trio.sleep_forever()

    transport = Hanging()
    connection = connect(transport)
    with trio.move_on_after(1) as scope:
        async with connection.open():
            pass
    assert scope.cancelled_caught
    assert trio.current_time() == 1
    assert connection.ended == Ended("handler", 1000)
    assert transport.calls[-1] == ("abort", 1006, "")


async def test_a_cancelled_stream_takes_one_second_at_most_for_its_close(autojump_clock) -> None:
    @attrs.define
    class Hanging(Deliverer):
        async def close(self, code: int, reason: str) -> None:
            await trio.sleep_forever()

    transport = Hanging()
    with trio.CancelScope() as scope:
        async with connect(transport).open():
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert trio.current_time() == 1
    assert transport.calls == ["abort"]
