"""Medians, ranges, percentiles and the ratios of rounds. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scripts.bench.core import OURS, Metric, Round


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some values and their range."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Line:
    """One metric of one case over all rounds: each contestant's spread, and ours / theirs for each peer."""

    case: str
    metric: Metric
    spreads: dict[str, Spread]
    ratios: dict[str, float]


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the values lie, interpolated. Raises ValueError for no values."""
    if not values:
        raise ValueError("no values to take a percentile of")
    ordered = sorted(values)
    place = (len(ordered) - 1) * share
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def spread(values: Sequence[float]) -> Spread:
    """Median and range. Raises ValueError for no values."""
    return Spread(percentile(values, 0.5), min(values), max(values))


def median_ratio(pairs: Iterable[tuple[float, float]]) -> float | None:
    """The median of ours / theirs over the rounds' (ours, theirs); None when no round has a ratio."""
    ratios = [ours / theirs for ours, theirs in pairs if theirs]
    return statistics.median(ratios) if ratios else None


def lines(metrics: Sequence[Metric], rounds: Sequence[Round]) -> list[Line]:
    """What the rounds of a scenario say, case by case. Metrics that a case does not have are left out."""
    result = []
    for case in list(dict.fromkeys(name for each in rounds for name in each)):
        runs = [each[case] for each in rounds if case in each]
        for metric in metrics:
            spreads, ratios = {}, {}
            for who in dict.fromkeys(name for each in runs for name in each):
                if values := [each[who][metric.name] for each in runs if metric.name in each.get(who, {})]:
                    spreads[who] = spread(values)
                pairs = [
                    (each[OURS][metric.name], each[who][metric.name])
                    for each in runs
                    if all(metric.name in each.get(name, {}) for name in (OURS, who))
                ]
                ratio = median_ratio(pairs)
                if who != OURS and metric.better and ratio is not None:
                    ratios[who] = ratio
            if spreads:
                result.append(Line(case, metric, spreads, ratios))
    return result
