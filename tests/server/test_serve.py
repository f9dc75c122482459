"""`serve`: hypercorn in Trio mode, started in a nursery and shut down in good order."""

import gc
import ssl
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import pytest
import trio
import trustme
from hypercorn.config import Config

import streamrt
from streamrt import App, Client, Ended, Service, StreamInOut, StreamOut
from tests.conftest import served
from tests.peers import connect_socket


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
    config = Config()
    config.errorlog = None
    async with trio.open_nursery() as nursery:
        serve = partial(streamrt.serve, make_app(), ["127.0.0.1:0", "127.0.0.1:0"], config=config)
        one, two = await nursery.start(serve)
        assert one != two
        for url in (one, two):
            async with Client(url).open_path("/echo") as stream:
                await stream.send("hello")
                assert await stream.receive() == "hello"
        nursery.cancel_scope.cancel()
    assert config.bind == ["127.0.0.1:8000"]  # it is not changed


async def test_without_a_bind_the_configs_is_taken() -> None:
    config = Config()
    config.errorlog = None
    config.bind = ["127.0.0.1:0"]
    async with trio.open_nursery() as nursery:
        [url] = await nursery.start(partial(streamrt.serve, make_app(), config=config))
        assert url.startswith("http://127.0.0.1:")
        nursery.cancel_scope.cancel()


async def test_a_message_of_the_endpoints_size_passes_hypercorn_too() -> None:
    big = "x" * ((20 << 20) - 2)
    async with served(make_app()) as url, connect_socket(url + "/echo") as peer:
        peer.protocol.max_message_size = None  # type: ignore[attr-defined]
        await peer.send(f'"{big}x"')
        assert (await peer.closed()).code == 1009


async def test_a_shutdown_drains_the_streams_and_then_ends() -> None:
    trigger = trio.Event()
    config = Config()
    config.errorlog = None
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
    config = Config()
    config.errorlog = None
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


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


async def test_streams_run_over_tls(authority: trustme.CA, tmp_path: Path) -> None:
    certificate = authority.issue_cert("localhost")
    (tmp_path / "cert.pem").write_bytes(b"".join(pem.bytes() for pem in certificate.cert_chain_pems))
    (tmp_path / "key.pem").write_bytes(certificate.private_key_pem.bytes())
    config = Config()
    config.errorlog = None
    config.certfile, config.keyfile = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            serve = partial(streamrt.serve, make_app(), "localhost:0", config=config)
            [bound] = await nursery.start(serve)
            url = f"https://localhost:{bound.rpartition(':')[2]}"
            async with Client(url, ssl_context=trusting).open_path("/echo") as stream:
                await stream.send("hello")
                assert await stream.receive() == "hello"
            with pytest.raises(streamrt.APIError.Unavailable, match="TLS handshake"):
                async with Client(url).open_path("/echo"):
                    pass
            nursery.cancel_scope.cancel()


APP = """
from streamrt import App, Service, StreamOut

service = Service("test")

@service.stream_out("/hello", expose=True)
async def hello(stream: StreamOut[str]) -> None:
    await stream.send("hello")

app = App(service)
"""


@pytest.mark.slow
async def test_stock_hypercorn_serves_an_app(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(APP)
    command = [sys.executable, "-m", "hypercorn", "--worker-class", "trio", "--bind", "127.0.0.1:0", "module:app"]
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            process = await nursery.start(
                partial(trio.run_process, command, cwd=tmp_path, stderr=subprocess.PIPE, check=False)
            )
            log = b""
            while b"Running on http://" not in log or not log.endswith(b"\n"):
                more = await process.stderr.receive_some()
                assert more, log
                log += more
            url = log.decode().partition("Running on ")[2].split()[0]
            async with connect_socket(url + "/hello") as peer:
                assert await peer.receive() == '"hello"'
                assert await peer.closed() == Ended("peer", 1000)
            process.terminate()


@pytest.mark.parametrize("who", ["server", "client"])
async def test_tcp_is_closed_promptly_after_the_closing_handshake(who: str) -> None:
    service = Service("test")

    @service.stream_in_out("/once", expose=True, close_timeout=5000)  # not because that has passed
    async def once(stream: StreamInOut[str, str]) -> None:
        async for message in stream:
            await stream.send(message)
            break

    async with served(App(service)) as url, connect_socket(url + "/once") as peer:
        if who == "server":
            await peer.send('"hello"')
            assert await peer.receive() == '"hello"'
        else:
            await peer.close(1000)
        ended = await peer.closed()  # which is the end of TCP, not only a Close
    assert ended == Ended("peer", 1000)


@pytest.mark.parametrize("tls", [False, True])
async def test_a_close_behind_a_burst_is_answered_behind_the_write_that_is_under_way(tls: bool) -> None:
    async with served(make_app(), tls=tls) as url, connect_socket(url + "/echo") as peer:
        for _ in range(50):
            peer.protocol.send_text(b'"x"')
        peer.protocol.send_close(3000, "that was all")
        await peer.stream.send_all(b"".join(peer.protocol.data_to_send()))
        assert await peer.closed() == Ended("peer", 3000, "that was all")
