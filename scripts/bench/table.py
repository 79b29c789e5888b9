"""A scenario's result as a Markdown table that also reads well in a terminal. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from scripts.bench.core import OURS
from scripts.bench.stats import Line, Spread


def table(lines: Sequence[Line]) -> str:
    """One row for each line: medians with their range, and ours / theirs where both ran."""
    everyone = list(dict.fromkeys(who for line in lines for who in line.spreads))
    peers = [who for who in everyone if who != OURS]
    head = ["", *everyone, *(f"ours / {peer}" for peer in peers)]
    rows = [head]
    for line in lines:
        row = [label(line)]
        row += [cell(line.spreads.get(who), line.metric.digits) for who in everyone]
        row += [f"{line.ratios[peer]:.2f}" if peer in line.ratios else "" for peer in peers]
        rows.append(row)
    widths = [max(len(row[at]) for row in rows) for at in range(len(head))]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |" for row in rows
    )


def label(line: Line) -> str:
    """The name of a row: case, metric, unit."""
    name = f"{line.case}: {line.metric.name}" if line.case else line.metric.name
    return f"{name}, {line.metric.unit}" if line.metric.unit else name


def cell(spread: Spread | None, digits: int) -> str:
    """ "205 (174–217)"; the range is left out where there is none."""
    if spread is None:
        return ""
    median, low, high = (f"{value:,.{digits}f}" for value in (spread.median, spread.low, spread.high))
    return median if low == high else f"{median} ({low}–{high})"
