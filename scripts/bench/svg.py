"""The results as one SVG picture that reads on light and dark backgrounds. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

from scripts.bench.core import OURS
from scripts.bench.stats import Line
from scripts.bench.table import label

WIDTH = 820
MARGIN = 20
ROW = 22
BARS_LEFT = 330
BARS_RIGHT = WIDTH - 70
PLOT_HEIGHT = 200
PLOT_LEFT = 70
PLOT_RIGHT = WIDTH - 130
LEAST, MOST = 0.25, 8.0
"""The ends of the axis of ratios; what lies beyond is cut there and says its number."""
COLORS = ("#3b82c4", "#d07a2d", "#4c9a5e")
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #333 }
.title { font-size: 16px; font-weight: 600 }
.small { font-size: 11px; fill: #777 }
.end { text-anchor: end }
.middle { text-anchor: middle }
.grid { stroke: #9999; stroke-width: 1 }
.even { stroke: #777; stroke-width: 1.5 }
.line { fill: none; stroke-width: 2.5 }
@media (prefers-color-scheme: dark) { text { fill: #ddd } .small { fill: #999 } }
"""


@dataclass(slots=True)
class Drawing:
    """Elements so far, and how far down they reach."""

    elements: list[str] = field(default_factory=list)
    y: float = MARGIN

    def text(self, x: float, y: float, content: str, kind: str = "") -> None:
        """Text at its baseline."""
        self.elements.append(f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{escape(content)}</text>')

    def line(self, start: tuple[float, float], end: tuple[float, float], kind: str) -> None:
        """A straight line."""
        (x1, y1), (x2, y2) = start, end
        self.elements.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>')

    def bar(self, x: float, y: float, width: float, color: str) -> None:
        """A horizontal bar of a row."""
        height = ROW - 8
        self.elements.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height}" rx="2" fill="{color}"/>'
        )

    def document(self) -> str:
        """The whole picture."""
        height = self.y + MARGIN
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}">'
        return "\n".join([head, f"<style>{STYLE}</style>", *self.elements, "</svg>", ""])


def picture(title: str, results: Mapping[str, Sequence[Line]], drawn_as_line: Mapping[str, str]) -> str:
    """Two lines of title, parted at "; ", and a chart for each scenario.

    A chart has lines over the cases for the metric that `drawn_as_line` names, else bars of ratios.
    """
    drawing = Drawing()
    what, _, where = title.partition("; ")
    drawing.text(MARGIN, drawing.y + 10, what, "title")
    drawing.text(MARGIN, drawing.y + 28, where, "small")
    drawing.y += 52
    for name, lines in results.items():
        if chosen := [line for line in lines if line.metric.name == drawn_as_line.get(name)]:
            curves(drawing, f"{name}: {chosen[0].metric.name}, {chosen[0].metric.unit}", chosen)
        elif contests := [line for line in lines if line.ratios]:
            bars(drawing, name, contests)
    return drawing.document()


def advantage(line: Line, peer: str) -> float:
    """How many times better ours is: ours / theirs where more is better, else theirs / ours."""
    ratio = line.ratios[peer]
    return ratio if line.metric.better == "more" else 1 / ratio


def bars(drawing: Drawing, name: str, lines: Sequence[Line]) -> None:
    """How many times better ours is, as bars to the right of 1, or worse, to the left, on a logarithmic axis."""
    peers = list(dict.fromkeys(peer for line in lines for peer in line.ratios))
    drawing.text(MARGIN, drawing.y + 12, f"{name}: times better than {' and '.join(peers)}", "title")
    top = drawing.y + 40
    bottom = top + ROW * sum(len(line.ratios) for line in lines)
    for tick in (0.25, 0.5, 1, 2, 4, 8):
        x = place(tick)
        drawing.line((x, top - 4), (x, bottom), "even" if tick == 1 else "grid")
        drawing.text(x, top - 8, f"{tick:g}", "small middle")
    y = top
    for line in lines:
        for peer in line.ratios:
            better = advantage(line, peer)
            start, end = sorted((place(1), place(better)))
            drawing.text(BARS_LEFT - 12, y + 14, label(line) + (f" ({peer})" if len(peers) > 1 else ""), "end")
            drawing.bar(start, y + 4, end - start, COLORS[0] if better >= 1 else COLORS[1])
            drawing.text(WIDTH - MARGIN, y + 14, f"{better:.2f}", "end")
            y += ROW
    drawing.y = bottom + 2 * MARGIN


def place(ratio: float) -> float:
    """Where a ratio lies on the axis of `bars`."""
    share = math.log(min(max(ratio, LEAST), MOST) / LEAST) / math.log(MOST / LEAST)
    return BARS_LEFT + share * (BARS_RIGHT - BARS_LEFT)


def curves(drawing: Drawing, title: str, lines: Sequence[Line]) -> None:
    """A metric over the number in each case's name: a curve for each contestant, from zero, cases evenly apart."""
    drawing.text(MARGIN, drawing.y + 12, title, "title")
    top, bottom = drawing.y + 30, drawing.y + 30 + PLOT_HEIGHT
    highest = max(spread.median for line in lines for spread in line.spreads.values()) or 1.0
    step = tick_step(highest)
    ceiling = step * math.ceil(highest / step)

    def at(value: float) -> float:
        return bottom - value / ceiling * PLOT_HEIGHT

    for tick in range(round(ceiling / step) + 1):
        drawing.line((PLOT_LEFT, at(tick * step)), (PLOT_RIGHT, at(tick * step)), "grid")
        drawing.text(PLOT_LEFT - 8, at(tick * step) + 4, f"{tick * step:g}", "small end")
    xs = [PLOT_LEFT + (PLOT_RIGHT - PLOT_LEFT) * (index + 0.5) / len(lines) for index in range(len(lines))]
    for x, line in zip(xs, lines, strict=True):
        drawing.text(x, bottom + 18, number(line.case), "small middle")
    everyone = list(dict.fromkeys(who for line in lines for who in line.spreads))
    everyone.sort(key=lambda who: who != OURS)
    for who, color in zip(everyone, COLORS, strict=False):
        points = [(x, at(line.spreads[who].median)) for x, line in zip(xs, lines, strict=True) if who in line.spreads]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        drawing.elements.append(f'<polyline points="{path}" class="line" stroke="{color}"/>')
        drawing.elements += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{color}"/>' for x, y in points]
    for index, who in enumerate(everyone):
        y = top + 12 + index * ROW
        drawing.bar(PLOT_RIGHT + 16, y - 10, 14, COLORS[index])
        drawing.text(PLOT_RIGHT + 38, y + 1, who)
    drawing.y = bottom + 18 + 2 * MARGIN


def tick_step(highest: float) -> float:
    """A round number of which four to ten reach the highest value."""
    power = 10.0 ** math.floor(math.log10(highest))
    return next(step for step in (power / 10, power / 5, power / 2, power) if highest / step <= 10)


def number(case: str) -> str:
    """The number in a case's name, or the name."""
    found = re.search(r"\d+", case)
    return found[0] if found else case
