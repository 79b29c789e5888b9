"""How the command line writes sizes, times, counts and tables: the formats of Ollama's CLI, pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal

_BYTE_UNITS = (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("KB", 10**3))
_GAP = "    "


def human_bytes(size: int) -> str:
    """Decimal units; whole from 10 up, one decimal below unless exactly whole: "12 MB", "1.3 GB", "2 GB"."""
    for unit, factor in _BYTE_UNITS:
        if size >= factor:
            whole = size >= 10 * factor or size % factor == 0
            return f"{size // factor} {unit}" if whole else f"{size / factor:.1f} {unit}"
    return f"{size} B"


def human_count(number: int) -> str:
    """A number of parameters: "8B", "3.2B", "335M", "22.56M", "500K"."""
    if number >= 10**9:
        return f"{number // 10**9}B" if number % 10**9 == 0 else f"{number / 1e9:.1f}B"
    if number >= 10**6:
        return f"{number // 10**6}M" if number % 10**6 == 0 else f"{number / 1e6:.2f}M"
    return f"{number / 1e3:.0f}K" if number >= 1000 else str(number)


def human_span(span: timedelta) -> str:
    """A length of time in words: "Less than a second", "About a minute", "3 hours", "2 weeks"."""
    seconds = int(span.total_seconds())
    minutes = seconds // 60
    hours = int(span.total_seconds() / 3600 + 0.5)
    if seconds < 60:
        return ("Less than a second", "1 second")[seconds] if seconds < 2 else f"{seconds} seconds"
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    if hours < 48:
        return "About an hour" if hours == 1 else f"{hours} hours"
    days = hours // 24
    for unit, length_days, limit_days in (("days", 1, 14), ("weeks", 7, 60), ("months", 30, 730)):
        if days < limit_days:
            return f"{days // length_days} {unit}"
    return f"{days // 365} years"


def relative_time(moment: datetime, now: datetime) -> str:
    """`moment` as seen from `now`, both aware: "2 days ago", "4 minutes from now", "Forever" past 20 years."""
    ahead = moment - now
    if ahead.days // 365 > 20:
        return "Forever"
    return f"{human_span(ahead)} from now" if ahead > timedelta() else f"{human_span(-ahead)} ago"


def processor(size: int, size_vram: int) -> str:
    """Where a loaded model's memory is: "100% CPU", "100% GPU", "48%/52% CPU/GPU" or "Unknown"."""
    if size_vram == 0:
        return "100% CPU"
    if size_vram == size:
        return "100% GPU"
    if size_vram > size or size == 0:
        return "Unknown"
    cpu = int((size - size_vram) / size * 100 + 0.5)
    return f"{cpu}%/{100 - cpu}% CPU/GPU"


def go_duration(nanoseconds: int) -> str:
    """Go's notation of a duration: "1m2.5s", "15.25ms", "150µs", "0s"."""
    if nanoseconds == 0:
        return "0s"
    for unit, factor in (("ns", 1), ("µs", 10**3), ("ms", 10**6)):
        if nanoseconds < factor * 1000:
            return _decimal(nanoseconds, factor) + unit
    minutes, rest = divmod(nanoseconds, 60 * 10**9)
    seconds = _decimal(rest, 10**9) + "s"
    if minutes < 60:
        return f"{minutes}m{seconds}" if minutes else seconds
    return f"{minutes // 60}h{minutes % 60}m{seconds}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Left-aligned columns four spaces apart, no borders.

    Byte for byte as Ollama prints it: the last column is padded too and followed by a gap in the rows, by one
    space in the header.
    """
    widths = _widths([header, *rows])
    head = _GAP.join(_pad(cell, width) for cell, width in zip(header, widths, strict=True))
    return f"{head} \n" + _lines(rows, widths)


def section(title: str, rows: Sequence[Sequence[str]]) -> str:
    """One part of `show`: a heading indented by two, rows by four, a blank line after."""
    return f"  {title}\n{_lines([('', *row) for row in rows], [0, *_widths(rows)])}\n"


def _decimal(number: int, factor: int) -> str:
    return f"{Decimal(number) / factor:f}"


def _lines(rows: Sequence[Sequence[str]], widths: Sequence[int]) -> str:
    return "".join(
        "".join(_pad(cell, width) + _GAP for cell, width in zip(row, widths, strict=False)) + "\n" for row in rows
    )


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    columns = max(map(len, rows), default=0)
    return [max(cell_width(row[i]) for row in rows if i < len(row)) for i in range(columns)]


def _pad(cell: str, width: int) -> str:
    return cell + " " * (width - cell_width(cell))


def cell_width(text: str) -> int:
    """Columns that a text takes on a terminal."""
    from rich.cells import cell_len

    return cell_len(text)
