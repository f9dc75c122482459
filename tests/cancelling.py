"""Cancelling at every checkpoint in turn."""

import trio


class CancelAt(trio.abc.Instrument):
    """Cancels a scope after a number of task steps: so each checkpoint is tried in turn."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.scope: trio.CancelScope | None = None

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if self.scope is not None:
            self.step -= 1
            if self.step == 0:
                self.scope.cancel()
