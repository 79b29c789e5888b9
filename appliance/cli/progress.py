"""Progress of something long on stderr: bars on a terminal, one line for each new status elsewhere."""

from __future__ import annotations

from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING

from appliance.cli.formats import human_bytes

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress, Task, TaskID


class Statuses:
    """Shows statuses as they come. Use as a context manager; threads may share one.

    A status that knows its total is a bar until it is complete, and there may be several at a time. Any other is over
    when the next one comes.
    """

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console

        self._console = console or Console(stderr=True)
        self._bars = _bars(self._console)
        self._tasks: dict[str, TaskID | None] = {}
        self._open = ""  # the latest status without a total
        self._lock = Lock()

    def __enter__(self) -> Statuses:
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if kind is None:
            for status in self._tasks:
                self._finish(status)
        if self._console.is_terminal:
            self._bars.stop()

    def show(self, status: str, completed: int = 0, total: int = 0, *, in_bytes: bool = False) -> None:
        """The state of `status`; amounts are shown where they are bytes."""
        with self._lock:
            if status not in self._tasks or (not total and status != self._open):
                self._begin(status, total)
            task = self._tasks[status]
            if task is not None:
                known = total > 0
                self._bars.update(task, completed=completed, total=total or None, known=known, in_bytes=in_bytes)

    def _begin(self, status: str, total: int) -> None:
        self._finish(self._open)
        self._open = "" if total else status
        self._tasks[status] = None
        if self._console.is_terminal:
            self._tasks[status] = self._bars.add_task(status, total=total or None, known=total > 0, in_bytes=False)
        else:
            self._console.print(status, markup=False, highlight=False, soft_wrap=True)

    def _finish(self, status: str) -> None:
        task = self._tasks.get(status)
        if task is not None:
            total = self._bars.tasks[self._bars.task_ids.index(task)].total or 1
            self._bars.update(task, completed=total, total=total)


def _bars(console: Console) -> Progress:
    from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn
    from rich.table import Column
    from rich.text import Text

    bar = BarColumn(bar_width=20)

    class Bar(ProgressColumn):
        """Of statuses that know their total."""

        def render(self, task: Task) -> RenderableType:
            return bar.render(task) if task.fields["known"] else Text()

    class Amount(ProgressColumn):
        """The percentage; of bytes also how many, and how fast they come."""

        def render(self, task: Task) -> Text:
            if not task.fields["known"] or task.total is None:
                return Text()
            amount = f"{task.percentage:>3.0f}%"
            if task.fields["in_bytes"]:
                amount += f" {human_bytes(int(task.completed))}/{human_bytes(int(task.total))}"
                if not task.finished and task.speed:
                    amount += f" {human_bytes(int(task.speed))}/s"
            return Text(amount, "progress.download")

    return Progress(
        SpinnerColumn(finished_text=" "),
        TextColumn("{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True)),
        Bar(),
        Amount(),
        console=console,
        expand=True,
    )
