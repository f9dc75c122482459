"""The test helpers do what they say."""

import pytest
import trio
import trio.testing

from streamrt import APIError, App, Ended, Service, StreamInOut, testing

service = Service("test")


@service.stream_in_out("/echo")
async def echo(stream: StreamInOut[str, str]) -> None:
    async for message in stream:
        await stream.send(message)


app = App(service)


async def test_a_peer_sends_exactly_what_it_is_given(autojump_clock) -> None:
    async with testing.connect(app, "/echo?x=1") as peer:
        await peer.send('"text"')
        await peer.send(b'"binary"')
        assert [await peer.receive(), await peer.receive()] == ['"text"', '"binary"']
        await peer.send("nonsense")
        assert (await peer.closed()).code == 4400
        assert peer.ended is not None
        with pytest.raises(trio.BrokenResourceError):
            await peer.send('"more"')
        with pytest.raises(trio.EndOfChannel):
            await peer.receive()


async def test_a_peer_closes_with_any_code(autojump_clock) -> None:
    async with testing.connect(app, "/echo") as peer:
        await peer.close(4321, "any")
        assert await peer.closed() == Ended("peer", 4321)


async def test_a_peer_stalls_and_resumes(autojump_clock) -> None:
    async with testing.connect(app, "/echo", stalled=True) as peer:
        await peer.send('"one"')
        await trio.testing.wait_all_tasks_blocked()
        peer.stall()
        peer.resume()
        assert await peer.receive() == '"one"'


async def test_a_peer_that_sends_to_a_stream_that_has_ended_is_told(autojump_clock) -> None:
    async with testing.connect(app, "/echo") as peer:
        await app.host.drain(0)
        with pytest.raises(trio.BrokenResourceError, match="1012"):
            await peer.send('"late"')
        assert peer.ended == Ended("peer", 1012, "the server is restarting")


async def test_a_refusal_is_raised(autojump_clock) -> None:
    with pytest.raises(APIError.NotFound):
        async with testing.connect(app, "/nowhere"):
            pass


async def test_tasks_that_are_left_are_named() -> None:
    async def forgotten() -> None:
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        with pytest.raises(AssertionError, match="forgotten"):
            async with testing.no_tasks_left(seconds=0.01):
                nursery.start_soon(forgotten)
        nursery.cancel_scope.cancel()


async def test_tasks_that_end_in_time_are_not_left(autojump_clock) -> None:
    async with trio.open_nursery() as nursery:
        async with testing.no_tasks_left():
            nursery.start_soon(trio.sleep, 50)
