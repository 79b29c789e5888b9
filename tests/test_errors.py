"""What errors say."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.errors import first_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RuntimeError("no kernel\nat node 3"), "no kernel"),
        (RuntimeError("\n  no kernel  "), "no kernel"),
        (RuntimeError("/models/x/model.onnx: no kernel"), "/model.onnx: no kernel"),
        (RuntimeError("x" * 400), "x" * 300),
        (MemoryError(), "MemoryError"),
    ],
)
def test_a_librarys_error_in_a_line(error: Exception, line: str) -> None:
    assert first_line(error, Path("/models/x")) == line


def test_without_a_folder_paths_stay() -> None:
    assert first_line(OSError("/models/x: full")) == "/models/x: full"


def test_a_message_that_is_no_error() -> None:
    assert first_line("\none\ntwo") == "one"
    assert first_line("") == "unknown error"
