"""Tasks that wait for something, in the least of memory: a parking lot takes ten times as much.

A stream has half a dozen places where somebody may have to wait, and in most of its life nobody does.
"""

from __future__ import annotations

from typing import final

import trio


@final
class Waiting:
    """Tasks that wait, the first of them first.

    It is true when there are any.
    """

    __slots__ = ("_tasks",)

    def __init__(self) -> None:
        self._tasks: list[trio.lowlevel.Task] = []

    def __bool__(self) -> bool:
        return bool(self._tasks)

    async def wait(self) -> None:
        """Wait until somebody wakes this task. Always a checkpoint."""
        task = trio.lowlevel.current_task()
        self._tasks.append(task)

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            self._tasks.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def wake(self) -> None:
        """Wake the first; there must be one."""
        trio.lowlevel.reschedule(self._tasks.pop(0))

    def rotate(self) -> None:
        """Let the second be the first: whoever is woken first may leave nothing for the others."""
        self._tasks[:] = self._tasks[1:] + self._tasks[:1]

    def wake_all(self) -> None:
        """Wake all."""
        for task in self._tasks:
            trio.lowlevel.reschedule(task)
        self._tasks.clear()
