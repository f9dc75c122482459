"""The rows of the lifecycle table that are about time, in virtual time: exact numbers, and no waiting."""

import attrs
import pytest
import trio
import trio.testing

from streamrt import APIError, App, Ended, Limits, Service, StreamIn, StreamInOut, StreamOut, get_client, testing
from streamrt.runtime.admission import Incoming
from streamrt.wire.transport import Disconnected, MemoryTransport, memory_transports


@attrs.frozen
class Number:
    value: int


async def test_a_peer_that_does_not_answer_the_close_is_waited_for_close_timeout_and_no_longer(autojump_clock) -> None:
    service = Service("test")

    @service.stream_out("/end")
    async def end(stream: StreamOut[Number]) -> None:
        pass

    app = App(service, limits=Limits(close_timeout=3))
    async with testing.connect(app, "/end") as peer:
        await trio.sleep(2.9)
        assert app.host.streams == 1
        await trio.sleep(0.2)
        assert app.host.streams == 0
        assert await peer.closed() == Ended("peer", 1000)


async def test_input_that_nobody_reads_is_drained_while_closing(autojump_clock) -> None:
    service = Service("test")

    @service.stream_in("/hasty")
    async def hasty(stream: StreamIn[Number]) -> Number:
        return Number(1)

    async with testing.connect(App(service), "/hasty") as peer, trio.open_nursery() as nursery:

        async def flood() -> None:
            with pytest.raises(trio.BrokenResourceError):
                while True:
                    await peer.send('{"value": 1}')

        nursery.start_soon(flood)
        assert await peer.receive() == '{"value":1}'
        assert await peer.closed() == Ended("peer", 1000)
    assert trio.current_time() == 0


@pytest.mark.parametrize(("grace", "seconds"), [(None, 5), (2, 2), (0, 0)])
async def test_a_handler_has_its_grace_after_the_peer_left(autojump_clock, grace: float | None, seconds: float) -> None:
    times: list[float] = []
    service = Service("test")

    @service.stream_in_out("/linger", disconnect_grace=grace)
    async def linger(stream: StreamInOut[Number, Number]) -> None:
        try:
            await trio.sleep_forever()
        finally:
            times.append(trio.current_time())

    async with testing.connect(App(service), "/linger") as peer:
        await trio.sleep(1)
        await peer.close()
        await peer.closed()
    assert times == [1 + seconds]


async def test_what_had_arrived_can_be_read_during_the_grace(autojump_clock) -> None:
    seen: list[int] = []
    service = Service("test")

    @service.stream_in("/slow")
    async def slow(stream: StreamIn[Number]) -> None:
        async for number in stream:
            seen.append(number.value)
            await trio.sleep(1)

    async with testing.connect(App(service), "/slow") as peer:
        for value in range(10):
            await peer.send(f'{{"value": {value}}}')
        await peer.close()
    assert seen == [0, 1, 2, 3, 4]  # at 0 s the peer left, and at 5 s the handler was cancelled


async def test_a_stalled_peer_is_given_send_timeout_and_then_aborted(autojump_clock) -> None:
    seen: list[object] = []
    service = Service("test")

    @service.stream_in_out("/flood", send_messages=10, send_timeout=7)
    async def flood(stream: StreamInOut[Number, Number]) -> None:
        sent = 0
        try:
            while True:
                await stream.send(Number(sent))
                sent += 1
        except APIError.ResourceExhausted as error:
            seen.extend((sent, trio.current_time(), error.message, stream.ended))
            with pytest.raises(trio.BrokenResourceError):
                await stream.send(Number(0))  # noqa: ASYNC120 - it raises
            raise

    async with testing.connect(App(service), "/flood", stalled=True) as peer:
        reason = "resource_exhausted: the peer has not read for 7 s"
        assert await peer.closed() == Ended("peer", 4429, reason)
    # Ten in the writer's hand, which moves nothing, and ten in the channel.
    assert seen == [20, 7, "the peer has not read for 7 s", Ended("runtime", 4429, reason)]


async def test_a_stalled_stream_out_is_cancelled_with_its_send_timeout(autojump_clock) -> None:
    service = Service("test")
    times: list[float] = []

    @service.stream_out("/flood", send_messages=10)
    async def flood(stream: StreamOut[Number]) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                while True:
                    try:
                        await stream.send(Number(1))
                    except APIError.ResourceExhausted:
                        await trio.sleep_forever()
        finally:
            times.append(trio.current_time())

    async with testing.connect(App(service), "/flood", stalled=True) as peer:
        assert (await peer.closed()).code == 4429
    assert times == [10]


async def test_a_last_flush_to_a_stalled_peer_is_bounded_too(autojump_clock) -> None:
    service = Service("test")

    @service.stream_out("/end", send_timeout=4)
    async def end(stream: StreamOut[Number]) -> None:
        await stream.send(Number(1))

    app = App(service)
    async with testing.connect(app, "/end", stalled=True) as peer:
        assert await peer.closed() == Ended("peer", 4429, "resource_exhausted: the peer has not read for 4 s")
        assert trio.current_time() == 4


async def test_a_stalled_peer_that_breaks_the_rules_is_not_waited_for_any_longer(autojump_clock) -> None:
    service = Service("test")

    @service.stream_out("/quiet", send_timeout=4)
    async def quiet(stream: StreamOut[int]) -> None:
        await stream.send(1)
        await trio.sleep_forever()

    async with testing.connect(App(service), "/quiet", stalled=True) as peer:
        await trio.sleep(1)
        await peer.send("1")
        assert await peer.closed() == Ended("peer", 1003, "this stream takes no messages")
    assert trio.current_time() == 5


async def test_a_slow_peer_is_not_a_stalled_one(autojump_clock) -> None:
    service = Service("test")

    @service.stream_out("/count", send_messages=4, send_timeout=70)
    async def count(stream: StreamOut[int]) -> None:
        for value in range(200):
            await stream.send(value)

    seen: list[str | bytes] = []
    async with testing.connect(App(service), "/count") as peer:
        with pytest.raises(trio.EndOfChannel):
            while True:
                await trio.sleep(1)  # so it reads from the transport, which holds 64, once in 64 s
                seen.append(await peer.receive())
    assert seen == [str(value) for value in range(200)]


async def test_a_send_that_waits_can_be_cancelled_and_nothing_of_it_goes_out(autojump_clock) -> None:
    service = Service("test")

    @service.stream_out("/flood", send_messages=1, send_timeout=100)
    async def flood(stream: StreamOut[int]) -> None:
        sent = 0
        with trio.move_on_after(3):
            while True:
                await stream.send(sent)
                sent += 1
        assert trio.current_time() == 3
        await stream.send(-sent)

    received: list[str | bytes] = []
    async with testing.connect(App(service), "/flood", stalled=True) as peer:
        await trio.sleep(4)
        peer.resume()
        with pytest.raises(trio.EndOfChannel):
            while True:
                received.append(await peer.receive())
    assert received == ["0", "1", "-2"]


async def test_a_cancelled_send_or_receive_has_moved_nothing(autojump_clock) -> None:
    service = Service("test")

    @service.stream_in_out("/talk")
    async def talk(stream: StreamInOut[int, int]) -> None:
        await trio.testing.wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            scope.cancel()
            await stream.receive()
        with trio.CancelScope() as scope:
            scope.cancel()
            await stream.send(0)
        await stream.send(await stream.receive())

    async with testing.connect(App(service), "/talk") as peer:
        await peer.send("1")
        assert await peer.receive() == "1"


async def test_a_scope_around_a_stream_with_a_stalled_peer_ends_within_close_timeout(autojump_clock) -> None:
    service = Service("test")
    cancelled_at: list[float] = []

    @service.stream_out("/flood", send_messages=1, send_timeout=100, close_timeout=5)
    async def flood(stream: StreamOut[int]) -> None:
        try:
            while True:
                await stream.send(1)
        finally:
            cancelled_at.append(trio.current_time())

    with trio.move_on_after(2):
        async with testing.connect(App(service), "/flood", stalled=True):
            await trio.sleep_forever()
    assert cancelled_at == [2]
    assert trio.current_time() == 2


async def test_a_drain_spreads_the_closes_over_its_window(autojump_clock) -> None:
    service = Service("test")
    ended: list[tuple[int, float]] = []

    @service.stream_out("/wait", expose=True)
    async def wait(stream: StreamOut[int]) -> None:
        await trio.sleep_forever()

    app = App(service)
    async with trio.open_nursery() as nursery:

        async def listen() -> None:
            async with testing.connect(app, "/wait") as peer:
                ended.append(((await peer.closed()).code, trio.current_time()))

        async with app.client():
            for _ in range(4):
                nursery.start_soon(listen)
            await trio.testing.wait_all_tasks_blocked()
            await app.host.drain(8)
            assert trio.current_time() == 8
    assert ended == [(1012, 2), (1012, 4), (1012, 6), (1012, 8)]


async def test_a_drain_cancels_a_handler_that_goes_on_after_its_stream_has_ended(autojump_clock) -> None:
    service = Service("test")
    cancelled_at: list[float] = []

    @service.stream_in_out("/work")
    async def work(stream: StreamInOut[int, int]) -> None:
        await stream.aclose()
        try:
            await trio.sleep_forever()
        finally:
            cancelled_at.append(trio.current_time())

    app = App(service)
    async with testing.connect(app, "/work") as peer:
        assert await peer.closed() == Ended("peer", 1000)
        await app.host.drain(3)
    assert cancelled_at == [3]


async def test_a_drain_is_over_when_the_last_stream_is(autojump_clock) -> None:
    service = Service("test")

    @service.stream_out("/wait", expose=True)
    async def wait(stream: StreamOut[int]) -> None:
        await stream.draining.wait()
        await trio.sleep(1)

    app = App(service)
    async with testing.connect(app, "/wait") as peer, trio.open_nursery() as nursery:
        nursery.start_soon(peer.closed)
        await trio.testing.wait_all_tasks_blocked()
        await app.host.drain(100)
        assert trio.current_time() == 1


async def test_a_stream_that_is_being_admitted_when_the_drain_begins_is_refused(autojump_clock) -> None:
    service = Service("test")

    @service.stream_out("/wait", expose=True)
    async def wait(stream: StreamOut[int]) -> None:
        await trio.sleep_forever()

    app = App(service, auth_handler=slow_auth)
    async with trio.open_nursery() as nursery:

        async def listen() -> None:
            with pytest.raises(APIError.Unavailable, match="shutting down"):
                async with testing.connect(app, "/wait?token=x"):
                    pass
            assert trio.current_time() == 5

        nursery.start_soon(listen)
        await trio.testing.wait_all_tasks_blocked()
        await app.host.drain(9)
        assert trio.current_time() == 0


@attrs.frozen
class Token:
    token: str


async def slow_auth(credentials: Token) -> str:
    await trio.sleep(5)
    return credentials.token


async def test_while_it_drains_an_app_refuses_new_streams(autojump_clock) -> None:
    service = Service("test")

    @service.stream_out("/wait", expose=True)
    async def wait(stream: StreamOut[int]) -> None:
        await trio.sleep_forever()

    app = App(service)
    async with (
        app.client(private=False) as outside,
        testing.connect(app, "/wait") as peer,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(peer.closed)
        nursery.start_soon(app.host.drain, 5)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(APIError.Unavailable, match="shutting down") as caught:
            async with outside.open_path("/wait"):
                pass
        assert caught.value.retry_after == 1
    async with app.client(private=False) as outside, outside.open_path("/wait"):  # the app can run again
        pass


async def test_a_handler_that_is_finishing_may_still_call_others(autojump_clock) -> None:
    service = Service("test")

    @service.stream_out()
    async def inner(stream: StreamOut[int]) -> None:
        await stream.send(1)

    @service.stream_out("/outer", expose=True)
    async def outer(stream: StreamOut[int]) -> None:
        await stream.draining.wait()
        async with get_client().open(inner) as source:
            await stream.send(await source.receive())

    app = App(service)
    async with testing.connect(app, "/outer") as peer, trio.open_nursery() as nursery:
        nursery.start_soon(app.host.drain, 5)
        assert await peer.receive() == "1"
        assert await peer.closed() == Ended("peer", 1000)
    assert trio.current_time() == 0


async def test_input_that_the_handler_does_not_read_is_bounded(autojump_clock) -> None:
    service = Service("test")

    @service.stream_in("/idle", receive_messages=10)
    async def idle(stream: StreamIn[int]) -> None:
        await trio.sleep_forever()

    async with testing.connect(App(service), "/idle") as peer:
        sent = 0
        with trio.move_on_after(1):
            while True:
                await peer.send("1")
                sent += 1
    assert 10 + 64 <= sent <= 10 + 2 * 64  # the channel, one batch in the reader's hand, and what is under way


async def test_input_is_bounded_in_bytes_too(autojump_clock) -> None:
    service = Service("test")

    @service.stream_in("/idle", receive_bytes=10_000)
    async def idle(stream: StreamIn[str]) -> None:
        await trio.sleep_forever()

    async with testing.connect(App(service), "/idle") as peer:
        sent = 0
        with trio.move_on_after(1):
            while True:
                await peer.send('"' + "x" * 4998 + '"')
                sent += 5000
    assert 10_000 <= sent <= 10_000 + 2 * 64 * 1024


async def test_output_is_bounded_in_bytes_too(autojump_clock) -> None:
    service = Service("test")
    sent = 0

    @service.stream_out("/flood", send_bytes=10_000, send_timeout=1)
    async def flood(stream: StreamOut[str]) -> None:
        nonlocal sent
        while True:
            await stream.send("x" * 4998)
            sent += 5000

    async with testing.connect(App(service), "/flood", stalled=True) as peer:
        await peer.closed()
    assert sent == 20_000  # as much in the writer's hand as in the channel


async def test_a_flooding_handler_lets_others_run(autojump_clock) -> None:
    turns = 0
    service = Service("test")

    @service.stream_in_out("/flood")
    async def flood(stream: StreamInOut[int, int]) -> None:
        for value in range(10_000):
            await stream.send(value)

    async with testing.connect(App(service), "/flood") as peer, trio.open_nursery() as nursery:

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await trio.lowlevel.checkpoint()

        nursery.start_soon(other)
        assert (await peer.closed()).code == 1000
        nursery.cancel_scope.cancel()
    assert turns >= 10_000 / 64


async def test_a_peer_that_writes_before_it_reads_and_a_handler_that_answers_early_do_not_deadlock(
    autojump_clock,
) -> None:
    service = Service("test")

    @service.stream_in_out("/early", receive_messages=10)
    async def early(stream: StreamInOut[int, int]) -> None:
        for value in range(1000):
            await stream.send(value)

    seen: list[str | bytes] = []
    async with testing.connect(App(service), "/early") as peer:
        for _ in range(3000):
            await peer.send("1")
        with pytest.raises(trio.EndOfChannel):
            while True:
                seen.append(await peer.receive())
    assert seen == [str(value) for value in range(1000)]
    assert trio.current_time() == 0


async def test_a_stream_that_is_cut_off_with_a_full_receive_channel_does_not_spin(autojump_clock) -> None:
    service = Service("test")

    @service.stream_in("/idle", receive_messages=10)
    async def idle(stream: StreamIn[int]) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(2)  # a spinning task would keep this clock from ever jumping

    app = App(service)
    async with testing.connect(app, "/idle") as peer:
        for _ in range(70):
            await peer.send("1")
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.closed)
            await app.host.drain(0)
    assert trio.current_time() == 2


async def test_a_peer_that_vanishes_during_the_last_flush_is_not_waited_for(autojump_clock) -> None:
    service = Service("test")

    @service.stream_out("/wait")
    async def wait(stream: StreamOut[int]) -> None:
        await stream.send(1)
        await trio.sleep_forever()

    app = App(service)
    async with testing.connect(app, "/wait", stalled=True) as peer, trio.open_nursery() as nursery:
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(app.host.drain, 0)
        await trio.sleep(1)
        peer.vanish()
    assert trio.current_time() == 1


async def test_the_last_flush_goes_on_for_as_long_as_the_peer_reads(autojump_clock) -> None:
    service = Service("test")

    @service.stream_out("/end", send_bytes=100 << 20)
    async def end(stream: StreamOut[str]) -> None:
        for _ in range(20):
            await stream.send("x" * 60_000)

    seen = 0
    async with testing.connect(App(service), "/end") as peer:
        with pytest.raises(trio.EndOfChannel):
            while True:
                await peer.receive()
                seen += 1
                await trio.sleep(9)  # 171 s in all, and never 10 without reading
    assert seen == 20
    assert peer.ended == Ended("peer", 1000)


async def test_a_big_message_is_not_overtaken_for_ever_by_small_ones(autojump_clock) -> None:
    service = Service("test")

    @service.stream_out("/mixed", send_bytes=100_000, send_timeout=10)
    async def mixed(stream: StreamOut[str]) -> None:
        async with trio.open_nursery() as nursery:

            async def chatter() -> None:
                while True:
                    await stream.send("small" * 200)

            nursery.start_soon(chatter)
            nursery.start_soon(chatter)
            await trio.sleep(1)
            await stream.send("x" * 90_000)
            nursery.cancel_scope.cancel()

    async with testing.connect(App(service), "/mixed") as peer:
        with pytest.raises(trio.EndOfChannel):
            while True:
                last = await peer.receive()
                await trio.sleep(0.01)
    assert peer.ended == Ended("peer", 1000)
    assert len(last) in (1002, 90_002)


async def test_in_a_drain_a_stream_that_a_handler_has_opened_ends_with_its_caller(autojump_clock) -> None:
    service = Service("test")

    @service.stream_out()
    async def source(stream: StreamOut[int]) -> None:
        await trio.sleep_forever()

    @service.stream_out("/relay", expose=True)
    async def relay(stream: StreamOut[int]) -> None:
        async with get_client().open(source) as numbers:
            async for number in numbers:
                await stream.send(number)

    app = App(service)
    ended: list[tuple[Ended, float]] = []
    async with app.client(), trio.open_nursery() as nursery:

        async def listen() -> None:
            async with testing.connect(app, "/relay") as peer:
                ended.append((await peer.closed(), trio.current_time()))

        for _ in range(2):
            nursery.start_soon(listen)
        await trio.testing.wait_all_tasks_blocked()
        await app.host.drain(8)
    assert ended == [(Ended("peer", 1012, "the server is restarting"), seconds) for seconds in (4, 8)]


async def test_that_one_peer_stalls_is_not_blamed_on_another(autojump_clock, caplog) -> None:
    service = Service("test")
    everyone: list[StreamInOut[int, int]] = []

    @service.stream_in_out("/room", send_messages=1)
    async def room(stream: StreamInOut[int, int]) -> None:
        everyone.append(stream)
        async for number in stream:
            while True:
                for member in everyone:
                    await member.send(number)

    app = App(service)
    async with testing.connect(app, "/room", stalled=True) as silent, testing.connect(app, "/room") as talker:
        await talker.send("1")
        assert (await talker.closed()).code == 1011
        assert (await silent.closed()).code == 4429
    assert "the peer has not read for 10 s" in caplog.text


async def test_a_handler_that_meets_the_end_of_its_channel_has_ended_well(autojump_clock, caplog) -> None:
    service = Service("test")

    @service.stream_in("/take")
    async def take(stream: StreamIn[int]) -> None:
        while True:
            await stream.receive()

    async with testing.connect(App(service), "/take") as peer:
        await peer.close()
        await peer.closed()
    assert caplog.records == []


async def test_an_error_that_looks_like_an_ending_while_the_stream_is_open_is_an_error(autojump_clock, caplog) -> None:
    service = Service("test")

    @service.stream_out("/other")
    async def other(stream: StreamOut[int]) -> None:
        raise trio.BrokenResourceError("some other resource")

    async with testing.connect(App(service), "/other") as peer:
        assert (await peer.closed()).code == 1011
    assert "some other resource" in caplog.text


async def test_receiving_in_a_finally_after_the_stream_was_cut_off_does_not_hang(autojump_clock) -> None:
    service = Service("test")

    @service.stream_in_out("/shielded")
    async def shielded(stream: StreamInOut[int, int]) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True), pytest.raises(trio.EndOfChannel):
                await stream.receive()

    app = App(service)
    async with testing.connect(app, "/shielded") as peer, trio.open_nursery() as nursery:
        nursery.start_soon(peer.closed)
        await trio.testing.wait_all_tasks_blocked()
        await app.host.drain(0)
    assert trio.current_time() == 0


async def test_a_slow_auth_handler_is_given_up_at_its_time_exactly(autojump_clock) -> None:
    service = Service("test")

    @service.stream_out("/wait", handshake_timeout=3)
    async def wait(stream: StreamOut[int]) -> None: ...

    with pytest.raises(APIError.DeadlineExceeded):
        async with testing.connect(App(service, auth_handler=slow_auth), "/wait?token=x"):
            pass
    assert trio.current_time() == 3


async def test_an_error_beside_a_cancellation_is_logged_and_the_cancellation_goes_on(autojump_clock, caplog) -> None:
    service = Service("test")

    @service.stream_out("/both")
    async def both(stream: StreamOut[int]) -> None:
        async def fail() -> None:
            try:
                await trio.sleep_forever()
            finally:
                raise KeyError("while it was cancelled")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            await trio.sleep_forever()

    peer, transport = memory_transports()

    async def accept(_subprotocol: str | None) -> MemoryTransport:
        return transport

    request = Incoming(
        path="/both", query_string="", headers=(), subprotocols=(), peer=None, transport="memory", private=True
    )
    with trio.move_on_after(1) as scope:
        await App(service).host.handle(request, accept)
    assert scope.cancelled_caught
    assert "while it was cancelled" in caplog.text
    with pytest.raises(Disconnected) as caught:
        await peer.receive()
    assert caught.value.code == 1001
