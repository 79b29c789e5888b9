"""Sizes, times, counts and tables, byte for byte."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from appliance.cli.formats import (
    go_duration,
    human_bytes,
    human_count,
    human_span,
    processor,
    relative_time,
    section,
    table,
)
from appliance.prompt.gotemplate.values import show_float

NOW = datetime(2026, 8, 21, 9, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 KB"),
        (1024, "1.0 KB"),
        (1_500_000, "1.5 MB"),
        (2_000_000_000, "2 GB"),
        (2_040_000_000, "2.0 GB"),
        (1_300_000_000, "1.3 GB"),
        (10_990_000, "10 MB"),
        (98_765_432, "98 MB"),
        (4_661_211_424, "4.7 GB"),
        (12_000_000_000_000, "12 TB"),
    ],
)
def test_bytes(size: int, text: str) -> None:
    assert human_bytes(size) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (999, "999"),
        (500_000, "500K"),
        (1_000_000, "1M"),
        (22_560_000, "22.56M"),
        (335_000_000, "335M"),
        (134_515_008, "134.52M"),
        (8_000_000_000, "8B"),
        (8_030_261_248, "8.0B"),
        (3_212_749_888, "3.2B"),
    ],
)
def test_counts(number: int, text: str) -> None:
    assert human_count(number) == text


@pytest.mark.parametrize(
    ("span", "text"),
    [
        (timedelta(milliseconds=900), "Less than a second"),
        (timedelta(seconds=1), "1 second"),
        (timedelta(seconds=59.9), "59 seconds"),
        (timedelta(seconds=60), "About a minute"),
        (timedelta(minutes=59), "59 minutes"),
        (timedelta(minutes=61), "About an hour"),
        (timedelta(minutes=100), "2 hours"),
        (timedelta(hours=24), "24 hours"),
        (timedelta(hours=47), "47 hours"),
        (timedelta(hours=48), "2 days"),
        (timedelta(days=13), "13 days"),
        (timedelta(days=14), "2 weeks"),
        (timedelta(days=59), "8 weeks"),
        (timedelta(days=60), "2 months"),
        (timedelta(days=729), "24 months"),
        (timedelta(days=730), "2 years"),
    ],
)
def test_spans(span: timedelta, text: str) -> None:
    assert human_span(span) == text


def test_times_seen_from_now() -> None:
    assert relative_time(NOW - timedelta(days=3), NOW) == "3 days ago"
    assert relative_time(NOW, NOW) == "Less than a second ago"
    assert relative_time(NOW + timedelta(minutes=4, seconds=30), NOW) == "4 minutes from now"
    assert relative_time(NOW + timedelta(days=292 * 365), NOW) == "Forever"


@pytest.mark.parametrize(
    ("size", "vram", "text"),
    [
        (100, 0, "100% CPU"),
        (100, 100, "100% GPU"),
        (100, 101, "Unknown"),
        (0, 5, "Unknown"),
        (1000, 525, "48%/52% CPU/GPU"),
    ],
)
def test_processor(size: int, vram: int, text: str) -> None:
    assert processor(size, vram) == text


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0s"),
        (1, "1ns"),
        (1_100, "1.1µs"),
        (15_000_000, "15ms"),
        (15_250_000, "15.25ms"),
        (1_000_000_000, "1s"),
        (4_000_000_100, "4.0000001s"),
        (62_500_000_000, "1m2.5s"),
        (120_000_000_000, "2m0s"),
        (3_600_000_000_000, "1h0m0s"),
        (93_784_000_000_000, "26h3m4s"),
    ],
)
def test_durations(nanoseconds: int, text: str) -> None:
    assert go_duration(nanoseconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (1000, "1000"),
        (-2.5, "-2.5"),
        (100_000, "100000"),
        (1_048_576, "1.048576e+06"),
        (8e9, "8e+09"),
        (0.0001, "0.0001"),
        (1e-05, "1e-05"),
        (123456.789, "123456.789"),
        (1e100, "1e+100"),
    ],
)
def test_floats(number: float, text: str) -> None:
    assert show_float(float(number)) == text


def test_a_table_pads_every_column_the_last_one_too() -> None:
    assert table(("NAME", "MODIFIED"), [("model1", "24 hours ago"), ("m", "now")]) == (
        "NAME      MODIFIED     \n"
        "model1    24 hours ago    \n"
        "m         now             \n"
    )  # fmt: skip


def test_a_table_without_rows_is_its_header() -> None:
    assert table(("NAME", "ID"), []) == "NAME    ID \n"


def test_wide_characters_take_two_columns() -> None:
    assert table(("A", "B"), [("模型", "x")]) == "A       B \n模型    x    \n"


def test_a_section_indents_and_ends_with_a_blank_line() -> None:
    assert section("Parameters", [("stop", "never"), ("temperature", "99")]) == (
        "  Parameters\n"
        "    stop           never    \n"
        "    temperature    99       \n"
        "\n"
    )  # fmt: skip
