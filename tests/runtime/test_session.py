"""What a handler and its peer see of each ending of a stream: the rows of the lifecycle table.

Every test runs over memory and over hypercorn; what is about time is in `test_session_in_time.py`.
"""

import logging
import math

import attrs
import pytest
import trio

from streamrt import APIError, App, Ended, InvalidMessage, Service, StreamIn, StreamInOut, StreamOut, testing
from streamrt.errors import CLASSES
from tests.conftest import Carrier


@attrs.frozen
class Number:
    value: int


@attrs.frozen
class Code:
    code: str


async def test_when_the_handler_returns_everything_sent_arrives_and_then_close_1000(carrier: Carrier) -> None:
    service = Service("test")

    @service.stream_out("/count", expose=True)
    async def count(stream: StreamOut[Number]) -> None:
        for value in range(500):
            await stream.send(Number(value))

    async with carrier.connect(App(service), "/count") as peer:
        assert [await peer.receive() for _ in range(500)] == [f'{{"value":{value}}}' for value in range(500)]
        assert await peer.closed() == Ended("peer", 1000)


async def test_a_stream_in_answers_and_then_close_1000(carrier: Carrier) -> None:
    service = Service("test")

    @service.stream_in("/sum", expose=True)
    async def total(stream: StreamIn[Number]) -> Number:
        result = 0
        async for number in stream:
            if number.value == 0:
                break
            result += number.value
        return Number(result)

    async with carrier.connect(App(service), "/sum") as peer:
        for value in (1, 2, 3, 0):
            await peer.send(f'{{"value": {value}}}')
        assert await peer.receive() == '{"value":6}'
        assert await peer.closed() == Ended("peer", 1000)


async def test_a_stream_in_without_a_response_sends_nothing(carrier: Carrier) -> None:
    service = Service("test")

    @service.stream_in("/take", expose=True)
    async def take(stream: StreamIn[Number]) -> None:
        await stream.receive()

    async with carrier.connect(App(service), "/take") as peer:
        await peer.send('{"value": 1}')
        with pytest.raises(trio.EndOfChannel):
            await peer.receive()
        assert peer.ended == Ended("peer", 1000)


@pytest.mark.parametrize("code", CLASSES)
async def test_an_api_error_closes_with_its_code_and_reason(carrier: Carrier, code: str) -> None:
    service = Service("test")

    @service.stream_in_out("/fail", expose=True)
    async def fail(stream: StreamInOut[Code, Number]) -> None:
        await stream.send(Number(1))
        raise CLASSES[(await stream.receive()).code]("on purpose")

    cls = CLASSES[code]
    text = "an internal error occurred" if code == "internal" else "on purpose"
    async with carrier.connect(App(service), "/fail") as peer:
        await peer.send(f'{{"code": "{code}"}}')
        assert await peer.receive() == '{"value":1}'
        assert await peer.closed() == Ended("peer", cls.close_code, f"{code}: {text}")


async def test_any_other_error_is_logged_and_closes_with_1011_without_its_text(
    carrier: Carrier, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service("test")

    @service.stream_out("/bug", expose=True)
    async def bug(stream: StreamOut[Number]) -> None:
        raise ZeroDivisionError("the secret")

    async with carrier.connect(App(service), "/bug") as peer:
        assert await peer.closed() == Ended("peer", 1011, "internal: an internal error occurred")
    [record] = caplog.records
    assert (record.levelno, record.getMessage()) == (logging.ERROR, "test.bug: the handler failed")
    assert "the secret" in caplog.text


async def test_an_api_error_that_a_nursery_of_the_handler_has_wrapped_still_counts(carrier: Carrier) -> None:
    service = Service("test")

    @service.stream_out("/group", expose=True)
    async def group(stream: StreamOut[Number]) -> None:
        async def fail() -> None:
            raise APIError.not_found("no such room")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            nursery.start_soon(trio.sleep_forever)

    async with carrier.connect(App(service), "/group") as peer:
        assert await peer.closed() == Ended("peer", 4404, "not_found: no such room")


async def test_an_api_error_beside_another_error_is_an_internal_one(
    carrier: Carrier, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service("test")

    @service.stream_out("/group", expose=True)
    async def group(stream: StreamOut[Number]) -> None:
        raise ExceptionGroup("both", [APIError.not_found("no such room"), KeyError("room")])

    async with carrier.connect(App(service), "/group") as peer:
        assert await peer.closed() == Ended("peer", 1011, "internal: an internal error occurred")
    assert "KeyError" in caplog.text


async def test_what_is_no_exception_is_not_held_back(autojump_clock) -> None:
    service = Service("test")

    @service.stream_out("/exit")
    async def leave(stream: StreamOut[Number]) -> None:
        raise BaseExceptionGroup("both", [SystemExit(3), KeyError("beside it")])

    with pytest.raises(BaseExceptionGroup) as caught:
        async with testing.connect(App(service), "/exit"):
            await trio.sleep_forever()
    assert isinstance(caught.value.exceptions[0], SystemExit)


async def test_a_response_that_does_not_fit_its_type_is_an_internal_error(
    carrier: Carrier, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service("test")

    @service.stream_in("/answer", expose=True)
    async def answer(stream: StreamIn[Number]) -> Number:
        return Code("not a number")  # type: ignore[return-value]

    async with carrier.connect(App(service), "/answer") as peer:
        assert (await peer.closed()).code == 1011
    assert "Number" in caplog.text


async def test_when_the_peer_closes_the_loop_ends_after_what_had_arrived(carrier: Carrier) -> None:
    seen: list[object] = []
    over = trio.Event()
    service = Service("test")

    @service.stream_in_out("/listen", expose=True)
    async def listen(stream: StreamInOut[Number, Number]) -> None:
        try:
            seen.extend([number.value async for number in stream])
            assert stream.ended is not None
            seen.append(stream.ended.by)
            with pytest.raises(trio.EndOfChannel):
                await stream.receive()
            with pytest.raises(trio.BrokenResourceError):
                await stream.send(Number(0))
        finally:
            seen.append("finally")
            over.set()

    async with carrier.connect(App(service), "/listen") as peer:
        for value in range(20):
            await peer.send(f'{{"value": {value}}}')
        await peer.close(4000, "enough")
        await over.wait()
    assert seen == [*range(20), "peer", "finally"]


async def test_the_code_and_reason_of_the_peer_reach_the_handler() -> None:
    ended: list[Ended | None] = []
    service = Service("test")

    @service.stream_in_out("/listen", expose=True)
    async def listen(stream: StreamInOut[Number, Number]) -> None:
        async for _ in stream:
            pass
        ended.append(stream.ended)

    from tests.conftest import memory

    async with memory().connect(App(service), "/listen") as peer:
        await peer.close(4001, "bye")
        await peer.closed()
    assert ended == [Ended("peer", 4001, "bye")]


async def test_when_the_peer_vanishes_the_loop_ends_with_1006(carrier: Carrier) -> None:
    ended: list[Ended | None] = []
    over = trio.Event()
    service = Service("test")

    @service.stream_in_out("/listen", expose=True)
    async def listen(stream: StreamInOut[Number, Number]) -> None:
        async for _ in stream:
            pass
        ended.append(stream.ended)
        over.set()

    async with carrier.connect(App(service), "/listen") as peer:
        peer.vanish()
        await over.wait()
    assert ended == [Ended("peer", 1006)]


async def test_a_stream_out_is_cancelled_at_once_when_its_peer_leaves(carrier: Carrier) -> None:
    seen: list[Ended | None] = []
    started, over = trio.Event(), trio.Event()
    service = Service("test")

    @service.stream_out("/sleep", expose=True)
    async def sleep(stream: StreamOut[Number]) -> None:
        started.set()
        try:
            await trio.sleep_forever()
        finally:
            seen.append(stream.ended)
            over.set()

    async with carrier.connect(App(service), "/sleep") as peer:
        await started.wait()
        await peer.close()
        await over.wait()
    assert [ended and ended.by for ended in seen] == ["peer"]


async def test_leaving_with_broken_resource_after_the_peer_left_is_no_error(
    carrier: Carrier, caplog: pytest.LogCaptureFixture
) -> None:
    over = trio.Event()
    service = Service("test")

    @service.stream_in_out("/talk", expose=True)
    async def talk(stream: StreamInOut[Number, Number]) -> None:
        async for _ in stream:
            pass
        over.set()
        await stream.send(Number(1))

    async with carrier.connect(App(service), "/talk") as peer:
        await peer.close()
        await over.wait()
    assert [record for record in caplog.records if record.levelname != "WARNING"] == []  # that it is plain ASGI


async def test_an_invalid_message_raises_where_it_is_received_and_the_stream_goes_on(carrier: Carrier) -> None:
    faults: list[str] = []
    service = Service("test")

    @service.stream_in_out("/talk", expose=True)
    async def talk(stream: StreamInOut[list[Number], Number]) -> None:
        try:
            await stream.receive()
        except InvalidMessage as error:
            faults.extend(str(fault) for fault in error.faults)
        [number] = await stream.receive()
        await stream.send(number)

    async with carrier.connect(App(service), "/talk") as peer:
        await peer.send('[{"value": 1}, {"value": "2"}, {}]')
        await peer.send('[{"value": 3}]')
        assert await peer.receive() == '{"value":3}'
        assert await peer.closed() == Ended("peer", 1000)
    assert faults == ['$[1].value: expected an integer, got "2"', "$[2].value: required field is missing"]


async def test_an_unhandled_invalid_message_closes_with_4400_and_the_path(carrier: Carrier) -> None:
    service = Service("test")

    @service.stream_in_out("/talk", expose=True)
    async def talk(stream: StreamInOut[Number, Number]) -> None:
        async for number in stream:
            await stream.send(number)

    async with carrier.connect(App(service), "/talk") as peer:
        await peer.send('{"value": null}')
        reason = "invalid_argument: $.value: expected an integer, got null"
        assert await peer.closed() == Ended("peer", 4400, reason)


async def test_a_value_that_does_not_fit_raises_where_it_is_sent_and_nothing_goes_out(carrier: Carrier) -> None:
    service = Service("test")

    @service.stream_out("/send", expose=True)
    async def send(stream: StreamOut[Number]) -> None:
        with pytest.raises(ValueError, match=r"\$\.value: expected an integer"):
            await stream.send(Number("1"))  # type: ignore[arg-type]
        await stream.send(Number(2))

    async with carrier.connect(App(service), "/send") as peer:
        assert await peer.receive() == '{"value":2}'
        assert await peer.closed() == Ended("peer", 1000)


async def test_data_on_a_stream_out_closes_with_1003(carrier: Carrier) -> None:
    seen: list[Ended | None] = []
    service = Service("test")

    @service.stream_out("/quiet", expose=True)
    async def quiet(stream: StreamOut[Number]) -> None:
        await stream.send(Number(1))
        try:
            await trio.sleep_forever()
        finally:
            seen.append(stream.ended)

    async with carrier.connect(App(service), "/quiet") as peer:
        assert await peer.receive() == '{"value":1}'
        await peer.send("{}")
        assert await peer.closed() == Ended("peer", 1003, "this stream takes no messages")
    assert seen == [Ended("runtime", 1003, "this stream takes no messages")]


async def test_a_message_over_the_limit_closes_with_1009(carrier: Carrier) -> None:
    service = Service("test")

    @service.stream_in_out("/talk", expose=True, max_message_bytes=20)
    async def talk(stream: StreamInOut[str, str]) -> None:
        async for text in stream:
            await stream.send(text)

    async with carrier.connect(App(service), "/talk") as peer:
        await peer.send('"' + "x" * 18 + '"')
        assert len(await peer.receive()) == 20
        await peer.send('"' + "\u00e9" * 9 + 'x"')
        assert await peer.closed() == Ended("peer", 1009, "a message may have 20 bytes")


async def test_a_binary_frame_that_holds_json_is_taken_and_text_is_answered(carrier: Carrier) -> None:
    service = Service("test")

    @service.stream_in_out("/talk", expose=True)
    async def talk(stream: StreamInOut[Number, Number]) -> None:
        await stream.send(await stream.receive())

    async with carrier.connect(App(service), "/talk") as peer:
        await peer.send(b'{"value": 1}')
        assert await peer.receive() == '{"value":1}'


async def test_what_the_client_sends_right_after_the_upgrade_is_not_lost(carrier: Carrier) -> None:
    service = Service("test")

    @service.stream_in_out("/talk", expose=True)
    async def talk(stream: StreamInOut[Number, Number]) -> None:
        async for number in stream:
            await stream.send(number)

    async with carrier.connect(App(service), "/talk") as peer:
        for value in range(100):
            await peer.send(f'{{"value":{value}}}')
        assert [await peer.receive() for _ in range(100)] == [f'{{"value":{value}}}' for value in range(100)]


async def test_closing_a_stream_in_the_handler_flushes_it_and_closes_with_1000(carrier: Carrier) -> None:
    closed = trio.Event()
    service = Service("test")

    @service.stream_in_out("/talk", expose=True)
    async def talk(stream: StreamInOut[Number, Number]) -> None:
        for value in range(100):
            await stream.send(Number(value))
        await stream.aclose()
        await stream.aclose()
        assert stream.ended == Ended("handler", 1000)
        with pytest.raises(trio.ClosedResourceError):
            await stream.send(Number(0))
        with pytest.raises(trio.ClosedResourceError):
            await stream.receive()
        await closed.wait()

    async with carrier.connect(App(service), "/talk") as peer:
        assert [await peer.receive() for _ in range(100)] == [f'{{"value":{value}}}' for value in range(100)]
        assert await peer.closed() == Ended("peer", 1000)
        closed.set()


async def test_closing_a_stream_in_stops_receiving_and_still_answers(carrier: Carrier) -> None:
    service = Service("test")

    @service.stream_in("/first", expose=True)
    async def first(stream: StreamIn[Number]) -> Number:
        number = await stream.receive()
        await stream.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await stream.receive()
        return number

    async with carrier.connect(App(service), "/first") as peer:
        await peer.send('{"value":1}')
        assert await peer.receive() == '{"value":1}'
        assert await peer.closed() == Ended("peer", 1000)


async def test_a_stream_that_outlives_its_handler_is_closed(carrier: Carrier) -> None:
    kept: list[StreamOut[Number]] = []
    service = Service("test")

    @service.stream_out("/keep", expose=True)
    async def keep(stream: StreamOut[Number]) -> None:
        kept.append(stream)

    async with carrier.connect(App(service), "/keep") as peer:
        assert await peer.closed() == Ended("peer", 1000)
        [stream] = kept
        with pytest.raises(trio.ClosedResourceError):
            await stream.send(Number(1))


async def test_when_a_scope_around_the_server_is_cancelled_the_peer_sees_1001(carrier: Carrier) -> None:
    seen: list[str] = []
    service = Service("test")
    started = trio.Event()

    @service.stream_in_out("/wait", expose=True)
    async def wait(stream: StreamInOut[Number, Number]) -> None:
        try:
            started.set()
            await stream.receive()
        except trio.Cancelled:
            seen.append("cancelled")
            raise
        finally:
            seen.append("finally")

    app = App(service)
    ended: list[Ended] = []
    async with trio.open_nursery() as nursery:
        gone = trio.Event()

        async def client(task_status: trio.TaskStatus[trio.CancelScope]) -> None:
            # The peer lives outside of the scope that is cancelled: only its server is inside.
            with trio.CancelScope() as scope:
                async with carrier.connect(app, "/wait") as peer:
                    await started.wait()
                    task_status.started(scope)
                    with trio.CancelScope(shield=True), trio.fail_after(5):
                        ended.append(await peer.closed())
            gone.set()

        scope = await nursery.start(client)
        scope.cancel()
        await gone.wait()
    assert ended == [Ended("peer", 1001)]
    assert seen == ["cancelled", "finally"]


async def test_a_drain_tells_the_handlers_and_closes_with_1012(carrier: Carrier) -> None:
    seen: list[object] = []
    service = Service("test")

    @service.stream_out("/wait", expose=True)
    async def wait(stream: StreamOut[Number]) -> None:
        await stream.send(Number(1))
        try:
            await stream.draining.wait()
            await stream.send(Number(2))
            await trio.sleep_forever()
        finally:
            seen.append(stream.ended)

    app = App(service)
    async with carrier.connect(app, "/wait") as peer:
        assert await peer.receive() == '{"value":1}'
        async with trio.open_nursery() as nursery:
            nursery.start_soon(app.host.drain, 0.05)
            assert await peer.receive() == '{"value":2}'
            assert await peer.closed() == Ended("peer", 1012, "the server is restarting")
    assert seen == [Ended("runtime", 1012, "the server is restarting")]


async def test_a_handler_that_ends_during_a_drain_ends_as_ever(carrier: Carrier) -> None:
    service = Service("test")

    @service.stream_out("/wait", expose=True)
    async def wait(stream: StreamOut[Number]) -> None:
        await stream.draining.wait()
        await stream.send(Number(2))

    app = App(service)
    async with carrier.connect(app, "/wait") as peer:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(app.host.drain, math.inf)
            assert await peer.receive() == '{"value":2}'
            assert await peer.closed() == Ended("peer", 1000)
