"""Statuses on a terminal and elsewhere."""

from __future__ import annotations

import io
import re

from rich.console import Console

from appliance.cli.progress import Statuses


def test_one_line_for_each_status_where_there_is_no_terminal() -> None:
    out = io.StringIO()
    with Statuses(Console(file=out, width=40)) as statuses:
        statuses.show("pulling manifest")
        for done in (0, 5, 10):
            statuses.show("pulling aaaa [bold]", done, 10)
            statuses.show("pulling bbbb", done, 20)
        statuses.show("writing manifest")
        statuses.show("writing manifest")
        statuses.show("success")
    assert out.getvalue().splitlines() == [
        "pulling manifest",
        "pulling aaaa [bold]",
        "pulling bbbb",
        "writing manifest",
        "success",
    ]


def test_bars_of_several_at_a_time_on_a_terminal() -> None:
    out = io.StringIO()
    with Statuses(Console(file=out, width=100, force_terminal=True, color_system=None)) as statuses:
        statuses.show("pulling manifest")
        statuses.show("pulling aaaa", 600_000_000, 1_300_000_000, in_bytes=True)
        statuses.show("pulling bbbb", 2, 4)
        statuses.show("pulling aaaa", 650_000_000, 1_300_000_000, in_bytes=True)
    *_, last = (frame for frame in re.split(r"\x1b\[\d*A", out.getvalue()) if "bbbb" in frame)
    lines = [line for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "\n", last).splitlines() if "pulling" in line]
    assert [line.split()[1] for line in lines] == ["manifest", "aaaa", "bbbb"]
    assert "━" not in lines[0]
    assert "1.3 GB/1.3 GB" in lines[1]  # what is over when all is over is shown whole
    assert "100%" in lines[2]


def test_an_error_leaves_bars_where_they_were() -> None:
    out = io.StringIO()
    try:
        with Statuses(Console(file=out, width=100, force_terminal=True, color_system=None)) as statuses:
            statuses.show("pulling aaaa", 1, 4)
            raise OSError
    except OSError:
        pass
    assert "25%" in out.getvalue()
    assert "100%" not in out.getvalue()
