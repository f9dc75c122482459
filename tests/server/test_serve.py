"""`serve`: hypercorn in Trio mode, started in a nursery and shut down in good order."""

import gc
import warnings
from functools import partial

import pytest
import trio

import streamrt
from streamrt import App, Client, Ended, Service, StreamInOut, StreamOut
from tests.conftest import configured, served
from tests.peers import CERTIFICATES, connect_socket


def make_app() -> App:
    service = Service("test")

    @service.stream_in_out("/echo", expose=True, max_message_bytes=20 << 20)
    async def echo(stream: StreamInOut[str, str]) -> None:
        async for message in stream:
            await stream.send(message)

    @service.stream_out("/wait", expose=True)
    async def wait(stream: StreamOut[str]) -> None:
        await stream.send("here")
        await stream.draining.wait()
        await stream.send("draining")
        await trio.sleep_forever()

    return App(service)


async def test_a_nursery_gets_the_urls_that_are_bound() -> None:
    config = configured()
    async with trio.open_nursery() as nursery:
        serve = partial(streamrt.serve, make_app(), ["127.0.0.1:0", "127.0.0.1:0"], config=config)
        one, two = await nursery.start(serve)
        assert one != two
        for url in (one, two):
            async with Client(url).open_path("/echo") as stream:
                await stream.send("hello")
                assert await stream.receive() == "hello"
        nursery.cancel_scope.cancel()
    assert config.bind == ["127.0.0.1:0"]  # it is not changed


async def test_without_a_bind_the_configs_is_taken() -> None:
    async with trio.open_nursery() as nursery:
        [url] = await nursery.start(partial(streamrt.serve, make_app(), config=configured()))
        assert url.startswith("http://127.0.0.1:")
        nursery.cancel_scope.cancel()


async def test_a_message_of_the_endpoints_size_passes_hypercorn_too() -> None:
    big = "x" * ((20 << 20) - 2)
    async with served(make_app()) as url, connect_socket(url + "/echo") as peer:
        await peer.send(f'"{big}x"')
        assert (await peer.closed()).code == 1009


async def test_a_shutdown_drains_the_streams_and_then_ends() -> None:
    trigger = trio.Event()
    config = configured()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            serve = partial(
                streamrt.serve,
                make_app(),
                "127.0.0.1:0",
                config=config,
                shutdown_trigger=trigger.wait,
                drain_timeout=0.05,
            )
            [url] = await nursery.start(serve)
            async with connect_socket(url + "/wait") as peer:
                assert await peer.receive() == '"here"'
                trigger.set()
                assert await peer.receive() == '"draining"'
                assert await peer.closed() == Ended("peer", 1012, "the server is restarting")


async def test_an_app_goes_on_in_memory_when_its_server_has_shut_down() -> None:
    config = configured()
    app = make_app()
    trigger = trio.Event()
    trigger.set()
    with trio.fail_after(10):
        async with app.client(private=False) as client:
            await streamrt.serve(app, "127.0.0.1:0", config=config, shutdown_trigger=trigger.wait, drain_timeout=0)
            async with client.open_path("/echo") as stream:
                await stream.send("hello")
                assert await stream.receive() == "hello"


async def test_an_address_in_use_is_an_os_error() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # hypercorn leaves the socket that it could not bind
        async with served(make_app()) as url:
            with pytest.raises(OSError, match="in use"):
                await streamrt.serve(make_app(), url.removeprefix("http://"))
        gc.collect()


async def test_streams_run_over_tls_for_who_trusts_the_certificate() -> None:
    async with served(make_app(), tls=True) as url:
        async with Client(url, ssl_context=CERTIFICATES.trusting).open_path("/echo") as stream:
            await stream.send("hello")
            assert await stream.receive() == "hello"
        with pytest.raises(streamrt.APIError.Unavailable, match="TLS handshake"):
            async with Client(url).open_path("/echo"):
                pass
