"""Progress of something long on stderr: bars on a terminal, one line for each new status elsewhere."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TaskProgressColumn, TextColumn
from rich.table import Column


class Statuses:
    """Shows a sequence of statuses, the latest running, those before it finished. Use as a context manager."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._bars = Progress(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True)),
            BarColumn(bar_width=20),
            TaskProgressColumn(),
            console=self._console,
            expand=True,
        )
        self._status = ""
        self._task: TaskID | None = None

    def __enter__(self) -> Statuses:
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if kind is None:
            self._finish()
        if self._console.is_terminal:
            self._bars.stop()

    def show(self, status: str, completed: int = 0, total: int = 0) -> None:
        """The state of `status`; a status other than the last one starts a new line."""
        if status != self._status:
            self._finish()
            self._status = status
            if self._console.is_terminal:
                self._task = self._bars.add_task(status, total=total or None)
            else:
                self._console.print(status, markup=False, highlight=False, soft_wrap=True)
        if self._task is not None:
            self._bars.update(self._task, completed=completed, total=total or None)

    def _finish(self) -> None:
        if self._task is not None:
            self._bars.update(self._task, completed=1, total=1)
        self._task = None
