"""What the endpoints of the streaming service do, in memory and in virtual time."""
# ruff: noqa: ARG001 - a test asks for virtual time by naming the clock

import logging
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from services import app
from streamrt import APIError, EncodeError, Ended, testing

from .endpoints import MAX_UPLOAD, ai_chat, logs, upload
from .types import Answer, Choose, Chunk, LogRow, Prompt, Tail, Upload, Uploaded

# Upload: messages in, one response back.


async def test_an_upload_is_answered_once_its_last_chunk_is_there(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with testing.no_tasks_left(), app.client() as client, client.open(upload, Upload(user="ada")) as stream:
        for data in ("a", "bc", "def"):
            await stream.send(Chunk(data))
        await stream.send(Chunk("g", done=True))
        assert await stream.response() == Uploaded(success=True)
    assert caplog.messages == ["ada has uploaded 4 chunks, 7 characters"]
    assert trio.current_time() == 0


async def test_who_does_not_say_their_name_uploads_as_anonymous(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with testing.connect(app, "/upload") as peer:
        await peer.send('{"data": "a", "done": true}')
        assert await peer.receive() == '{"success":true}'
        assert await peer.closed() == Ended("peer", 1000)
    assert caplog.messages == ["anonymous has uploaded 1 chunks, 1 characters"]


async def test_chunks_after_the_last_one_do_not_matter(autojump_clock: MockClock) -> None:
    async with testing.connect(app, "/upload") as peer:
        await peer.send('{"data": "a", "done": true}')
        await peer.send('{"data": "too late"}')
        await peer.send("and no JSON either")
        assert await peer.receive() == '{"success":true}'
        assert await peer.closed() == Ended("peer", 1000)


async def test_a_client_that_closes_before_the_last_chunk_gets_no_answer(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with testing.no_tasks_left(), testing.connect(app, "/upload?user=ada") as peer:
        await peer.send('{"data": "a"}')
        await peer.close()
        with pytest.raises(trio.EndOfChannel):
            await peer.receive()
    assert caplog.messages == ["ada has left an upload after 1 chunks"]
    assert trio.current_time() == 0


async def test_a_client_that_vanishes_in_the_middle_of_an_upload_leaves_nothing_behind(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with testing.no_tasks_left(), testing.connect(app, "/upload?user=ada") as peer:
        await peer.send('{"data": "a"}')
        await wait_all_tasks_blocked()
        peer.vanish()
    assert caplog.messages == ["ada has left an upload after 1 chunks"]
    assert app.host.streams == 0
    assert trio.current_time() == 0


async def test_an_upload_that_is_too_big_is_refused_at_the_chunk_that_is_too_much(autojump_clock: MockClock) -> None:
    async with app.client() as client, client.open(upload, Upload()) as stream:
        for _ in range(64):
            await stream.send(Chunk("a" * (MAX_UPLOAD // 64)))
        await stream.send(Chunk("b"))
        with pytest.raises(APIError.ResourceExhausted, match="64000000 characters"):
            await stream.response()


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ('{"data": 1}', "invalid_argument: $.data: expected a string, got 1"),
        ('{"done": true}', "invalid_argument: $.data: required field is missing"),
        ('{"data": "a", "done": "yes"}', 'invalid_argument: $.done: expected a boolean, got "yes"'),
        ("[]", "invalid_argument: $: expected an object, got an array"),
    ],
)
async def test_a_chunk_that_is_none_ends_the_upload_and_says_why(
    autojump_clock: MockClock, message: str, reason: str
) -> None:
    async with testing.connect(app, "/upload") as peer:
        await peer.send(message)
        assert await peer.closed() == Ended("peer", 4400, reason)


# Logs: messages out.


async def test_a_row_comes_every_half_second_and_the_first_at_once(autojump_clock: MockClock) -> None:
    async with app.client() as client, client.open(logs, Tail(rows=4)) as stream:
        rows = [(trio.current_time(), row) async for row in stream]
    assert rows == [
        (0.0, LogRow("Log row 1")),
        (0.5, LogRow("Log row 2")),
        (1.0, LogRow("Log row 3")),
        (1.5, LogRow("Log row 4")),
    ]
    assert trio.current_time() == 1.5


async def test_a_log_of_no_rows_ends_at_once(autojump_clock: MockClock) -> None:
    async with testing.connect(app, "/logs?rows=0") as peer:
        assert await peer.closed() == Ended("peer", 1000)
    assert trio.current_time() == 0


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("", "missing query parameter 'rows'"),
        ("?rows=", "query parameter 'rows': expected an integer, got ''"),
        ("?rows=many", "query parameter 'rows': expected an integer, got 'many'"),
        ("?rows=2.5", "query parameter 'rows': expected an integer, got '2.5'"),
        ("?rows=-1", "'rows' must be >= 0: -1"),
        ("?rows=10001", "'rows' must be <= 10000: 10001"),
    ],
)
async def test_a_number_of_rows_that_makes_no_sense_is_refused(
    autojump_clock: MockClock, query: str, message: str
) -> None:
    with pytest.raises(APIError.InvalidArgument) as refusal:
        async with testing.connect(app, f"/logs{query}"):
            pass
    assert refusal.value.message == message


async def test_a_log_that_nobody_hears_any_more_stops_at_once(autojump_clock: MockClock) -> None:
    async with testing.no_tasks_left(), testing.connect(app, "/logs?rows=10000") as peer:
        for number in (1, 2, 3):
            assert await peer.receive() == f'{{"message":"Log row {number}"}}'
        await trio.sleep(0.1)
        peer.vanish()
    assert trio.current_time() == 1.1


async def test_a_log_takes_no_messages(autojump_clock: MockClock) -> None:
    async with testing.connect(app, "/logs?rows=10") as peer:
        await peer.send('{"message": "hello?"}')
        assert await peer.closed() == Ended("peer", 1003, "this stream takes no messages")


# AI chat: messages both ways.


async def test_an_answer_grows_by_a_character_every_50_ms_until_it_is_done(autojump_clock: MockClock) -> None:
    whole = "m read that backwards: olleh"
    answers: list[Answer] = []
    async with app.client() as client, client.open(ai_chat, Choose(model="m")) as stream:
        await stream.send(Prompt("hello"))
        async for answer in stream:
            assert trio.current_time() == pytest.approx(0.05 * len(answers))
            answers.append(answer)
            if answer.done:
                break
    assert answers == [Answer(whole[:length], done=length == len(whole)) for length in range(1, len(whole) + 1)]


async def test_prompts_are_answered_one_after_another(autojump_clock: MockClock) -> None:
    whole: list[str] = []
    async with app.client() as client, client.open(ai_chat, Choose(model="m")) as stream:
        await stream.send(Prompt("ab"))
        await stream.send(Prompt("cd"))
        async for answer in stream:
            if answer.done:
                whole.append(answer.message)
                if len(whole) == 2:
                    break
    assert whole == ["m read that backwards: ba", "m read that backwards: dc"]


async def test_a_client_that_vanishes_in_the_middle_of_an_answer_ends_it_within_one_step(
    autojump_clock: MockClock,
) -> None:
    async with testing.no_tasks_left(), testing.connect(app, "/ai-chat?model=m") as peer:
        await peer.send('{"prompt": "hello"}')
        for _ in range(3):
            await peer.receive()
        await trio.sleep(0.01)
        peer.vanish()
    assert trio.current_time() == pytest.approx(0.15)


async def test_a_prompt_that_is_too_long_ends_the_stream_and_says_why(autojump_clock: MockClock) -> None:
    async with testing.connect(app, "/ai-chat?model=m") as peer:
        await peer.send(f'{{"prompt": "{"x" * 1001}"}}')
        ended = await peer.closed()
    assert (ended.code, ended.reason) == (4400, "invalid_argument: $: Length of 'prompt' must be <= 1000: 1001")


async def test_a_talk_with_no_model_is_refused(autojump_clock: MockClock) -> None:
    with pytest.raises(APIError.InvalidArgument, match="missing query parameter 'model'"):
        async with testing.connect(app, "/ai-chat"):
            pass


# The client's own mistakes raise where they are made.


async def test_a_handshake_of_another_endpoint_is_a_type_error(autojump_clock: MockClock) -> None:
    wrong: Any = Choose(model="m")
    async with app.client() as client:
        with pytest.raises(TypeError, match="expected a Tail, got Choose"):
            async with client.open(logs, wrong):
                pass


async def test_a_message_that_does_not_fit_is_not_sent(autojump_clock: MockClock) -> None:
    number: Any = 1
    async with app.client() as client, client.open(upload, Upload()) as stream:
        with pytest.raises(EncodeError, match="expected a string, got 1"):
            await stream.send(Chunk(number))
        await stream.send(Chunk("a", done=True))
        assert await stream.response() == Uploaded(success=True)
