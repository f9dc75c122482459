"""A lone error comes out of a hidden nursery as itself."""

import pytest
import trio

from streamrt.runtime.scopes import lone_error


async def fail(error: BaseException) -> None:
    raise error


async def test_a_lone_error_is_raised_as_itself_with_its_cause_and_context() -> None:
    cause = KeyError("cause")
    with pytest.raises(ValueError, match="mine") as caught, lone_error():
        async with trio.open_nursery():
            raise ValueError("mine") from cause
    assert caught.value.__cause__ is cause


async def test_an_error_of_a_task_beside_cancellations_is_raised_as_itself() -> None:
    with pytest.raises(ValueError, match="mine"), trio.CancelScope() as scope, lone_error():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail, ValueError("mine"))
            scope.cancel()
            await trio.sleep_forever()


async def test_cancellations_alone_are_one_cancellation() -> None:
    with trio.CancelScope() as scope:
        with lone_error():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                scope.cancel()
                await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_several_errors_stay_a_group() -> None:
    with pytest.raises(ExceptionGroup) as caught, lone_error():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail, ValueError("one"))
            nursery.start_soon(fail, ValueError("two"))
    assert len(caught.value.exceptions) == 2


async def test_only_one_level_is_unwrapped() -> None:
    group = ExceptionGroup("the user's own", [ValueError("one")])
    with pytest.raises(ExceptionGroup) as caught, lone_error():
        async with trio.open_nursery():
            raise group
    assert (caught.value.message, caught.value.exceptions) == ("the user's own", group.exceptions)


async def test_an_error_without_a_group_passes() -> None:
    with pytest.raises(ValueError, match="mine"), lone_error():
        raise ValueError("mine")
