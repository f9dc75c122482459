"""What the assistant does for those who ask, and for those who stop it, in memory and in virtual time."""
# ruff: noqa: ARG001 - a test asks for virtual time by naming the clock

from collections import Counter
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from services import app
from streamrt import APIError, StreamInOut, testing

from .chain import Chain, prose, read_documentation
from .endpoints import ANSWERS, TOKEN_SECONDS, chain, talk
from .types import Ask, Cancel, Finished, Token

Talk = StreamInOut[Token | Finished, Ask | Cancel]
QUESTION = "What does a topic do?"


async def read(stream: Talk, *answers: int) -> tuple[dict[int, str], dict[int, str]]:
    """Read until answers are finished; return the texts of all that have come, and how they were finished."""
    texts, ends = dict.fromkeys(answers, ""), dict[int, str]()
    while ends.keys() < set(answers):
        match await stream.receive():
            case Token(answer, text):
                texts[answer] = texts.get(answer, "") + text
            case Finished(answer, how):
                ends[answer] = how
    return texts, ends


# Answers.


async def test_an_answer_comes_token_by_token_and_is_whole(autojump_clock: MockClock) -> None:
    tokens = list(chain.tokens(QUESTION))
    async with testing.no_tasks_left(), app.client() as client, client.open(talk) as stream:
        await stream.send(Ask(1, QUESTION))
        for number, text in enumerate(tokens):
            assert await stream.receive() == Token(1, text)
            assert trio.current_time() == pytest.approx(number * TOKEN_SECONDS)
        assert await stream.receive() == Finished(1, "whole")


async def test_several_answers_come_at_a_time(autojump_clock: MockClock) -> None:
    questions = {number: f"{QUESTION} {number}" for number in range(ANSWERS)}
    whole = {number: list(chain.tokens(question)) for number, question in questions.items()}
    async with app.client() as client, client.open(talk) as stream:
        for number, question in questions.items():
            await stream.send(Ask(number, question))
        texts, ends = await read(stream, *questions)
        assert trio.current_time() == pytest.approx(TOKEN_SECONDS * max(map(len, whole.values())))
    assert texts == {number: "".join(tokens) for number, tokens in whole.items()}
    assert ends == dict.fromkeys(questions, "whole")


async def test_a_question_too_many_is_turned_down_and_there_is_room_again_later(autojump_clock: MockClock) -> None:
    async with app.client() as client, client.open(talk) as stream:
        for number in range(ANSWERS + 1):
            await stream.send(Ask(number, QUESTION))
        texts, ends = await read(stream, ANSWERS)
        assert (texts[ANSWERS], ends) == ("", {ANSWERS: "busy"})
        await read(stream, *range(ANSWERS))
        await stream.send(Ask(ANSWERS, QUESTION))
        assert (await read(stream, ANSWERS))[1] == {ANSWERS: "whole"}


# Who stops them.


async def test_a_canceled_answer_stops_at_once_and_the_others_go_on(autojump_clock: MockClock) -> None:
    whole = list(chain.tokens(QUESTION))
    async with testing.no_tasks_left(), app.client() as client, client.open(talk) as stream:
        for number in (1, 2):
            await stream.send(Ask(number, QUESTION))
        for _ in range(3):
            heard = [await stream.receive() for _ in range(2)]
            assert Counter(type(message) for message in heard) == {Token: 2}
        await stream.send(Cancel(1))
        assert await stream.receive() == Finished(1, "canceled")
        assert trio.current_time() == pytest.approx(2 * TOKEN_SECONDS)
        texts, ends = await read(stream, 2)
    assert texts == {2: "".join(whole[3:])}  # and nothing of 1
    assert ends == {2: "whole"}


async def test_a_number_is_free_again_once_its_answer_is_finished(autojump_clock: MockClock) -> None:
    async with app.client() as client, client.open(talk) as stream:
        await stream.send(Ask(1, QUESTION))
        await stream.send(Cancel(1))
        await read(stream, 1)
        await stream.send(Ask(1, QUESTION))
        assert await read(stream, 1) == ({1: "".join(chain.tokens(QUESTION))}, {1: "whole"})


async def test_to_cancel_what_is_not_coming_changes_nothing(autojump_clock: MockClock) -> None:
    async with app.client() as client, client.open(talk) as stream:
        await stream.send(Cancel(7))
        await stream.send(Ask(1, QUESTION))
        await read(stream, 1)
        await stream.send(Cancel(1))  # too late
        await stream.send(Ask(2, QUESTION))
        assert (await read(stream, 2))[1] == {2: "whole"}


async def test_two_answers_of_one_number_at_a_time_end_the_stream(autojump_clock: MockClock) -> None:
    async with testing.no_tasks_left(), app.client() as client, client.open(talk) as stream:
        await stream.send(Ask(1, QUESTION))
        await stream.send(Ask(1, QUESTION))
        with pytest.raises(APIError.AlreadyExists, match="answer 1 is still coming: number another one"):
            await read(stream, 1)


# Who leaves.


async def test_who_asks_no_more_gets_the_answers_that_are_coming(autojump_clock: MockClock) -> None:
    async with testing.no_tasks_left(), app.client() as client, client.open(talk) as stream:
        for number in (1, 2):
            await stream.send(Ask(number, QUESTION))
        await stream.send_eof()
        _, ends = await read(stream, 1, 2)
        assert ends == {1: "whole", 2: "whole"}
        with pytest.raises(trio.EndOfChannel):
            await stream.receive()


async def test_all_answers_end_within_a_step_when_the_client_vanishes(autojump_clock: MockClock) -> None:
    async with testing.no_tasks_left(), testing.connect(app, "/assistant") as peer:
        for number in range(ANSWERS):
            await peer.send(f'{{"kind": "ask", "answer": {number}, "prompt": "hello"}}')
        await trio.sleep(10.5 * TOKEN_SECONDS)
        peer.vanish()
    assert trio.current_time() == pytest.approx(11 * TOKEN_SECONDS)


async def test_an_answer_waits_for_a_client_that_does_not_read_and_can_still_be_canceled(
    autojump_clock: MockClock,
) -> None:
    async with app.client() as client, client.open(talk) as stream:
        await stream.send(Ask(1, QUESTION))
        await wait_all_tasks_blocked()
        await trio.sleep(60)
        await stream.send(Cancel(1))
        texts, _ = await read(stream, 1)
    assert "".join(chain.tokens(QUESTION)).startswith(texts[1])


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ('{"kind": "ask", "answer": 1}', "invalid_argument: $.prompt: required field is missing"),
        ('{"kind": "cancel", "answer": "1"}', 'invalid_argument: $.answer: expected an integer, got "1"'),
    ],
)
async def test_what_is_no_message_ends_the_stream_and_says_why(
    autojump_clock: MockClock, message: str, reason: str
) -> None:
    async with testing.connect(app, "/assistant") as peer:
        await peer.send(message)
        ended = await peer.closed()
    assert (ended.code, ended.reason) == (4400, reason)


# What it says.


def test_each_word_stands_behind_the_two_before_it_somewhere_in_the_text() -> None:
    text = "The end of a stream. The end of a day. A stream of words"
    known = list(zip(text.split(), text.split()[1:], text.split()[2:], strict=False))
    for number in range(100):
        words = "".join(Chain(text).tokens(str(number))).split()
        assert len(words) >= 3
        assert set(zip(words, words[1:], words[2:], strict=False)) <= set(known)


def test_the_same_question_has_the_same_answer_and_another_one_another() -> None:
    assert list(chain.tokens(QUESTION)) == list(chain.tokens(QUESTION))
    assert len({"".join(chain.tokens(f"question {number}")) for number in range(10)}) > 1


def test_an_answer_begins_with_a_word_of_the_question_where_the_text_has_it_at_a_beginning() -> None:
    text = "Streams are long. Topics are wide. Numbers are neither of them"
    for question, begin in (("what are topics?", "Topics are"), ("NUMBERS?", "Numbers are")):
        assert "".join(Chain(text).tokens(question)).startswith(begin)


@pytest.mark.parametrize(("least", "most", "length"), [(1, 80, 3), (4, 80, 6), (100, 80, 80), (100, 3, 3)])
def test_an_answer_ends_with_a_sentence_or_when_it_is_long(least: int, most: int, length: int) -> None:
    circle = "A b c. " * 100
    assert len(list(Chain(circle, least, most).tokens("d"))) == length


def test_an_answer_ends_where_the_text_does() -> None:
    assert list(Chain("only these words").tokens("")) == ["only", " these", " words"]


def test_a_text_that_is_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="a chain needs a text of three words or more, not 'two words'"):
        Chain("two words")


def test_code_tables_headings_and_marks_are_no_prose(tmp_path: Path) -> None:
    markdown = (
        "# Head\n\nSee **the** [guide](guide.md), `it`.\n\n```python\ncode()\n```\n\n| a | b |\n\n    more code\n\nBye."
    )
    assert prose(markdown).split() == "See the guide, it. Bye.".split()
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.md").write_text(markdown)
    (tmp_path / "c.md").write_text("Again.")
    (tmp_path / "c.txt").write_text("Not this.")
    assert read_documentation(tmp_path).split() == "See the guide, it. Bye. Again.".split()


def test_the_documentation_is_long_enough_to_talk_about() -> None:
    assert len(read_documentation().split()) > 5000
