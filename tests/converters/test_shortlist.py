"""Large heads: all rows in 4 bits, the likeliest again in 8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from appliance.bundle import BATCH, MODEL, read_description
from converters.bundle import convert
from converters.formats import Format
from converters.recipes import shortlist
from converters.recipes.shortlist import preview_format
from tests.converters.running import Decoder, relative_error
from tests.tiny_model import write_tiny_gguf

SIZE = 16
IDS = [int(token) for token in np.random.default_rng(1).integers(0, 267, 24)]


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny model's head counts as large."""
    monkeypatch.setattr(shortlist, "FROM_WEIGHTS", 1)
    monkeypatch.setattr(shortlist, "SHORTLIST", SIZE)


def kinds(graph: Path) -> list[str]:
    return [node.op_type for node in onnx.load(graph, load_external_data=False).graph.node]


def converted(folder: Path, recipe: str = "exact", target: str = "cpu", **overrides: Any) -> Path:
    source = write_tiny_gguf(folder / "tiny.gguf", hidden=128, **overrides)
    convert(source, folder / f"{recipe}-{target}", recipe, target=target)
    return folder / f"{recipe}-{target}"


def read_whole(folder: Path, recipe: str = "exact", **overrides: Any) -> Path:
    """The same without a shortlist."""
    (folder / "whole").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shortlist, "FROM_WEIGHTS", 1 << 26)
        return converted(folder / "whole", recipe, **overrides)


@pytest.mark.parametrize("recipe", ["exact", "compact", "q4"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("tensor_type", ["Q8_0", "F16"])
def test_the_likeliest_logits_are_those_of_8_bits(
    tmp_path: Path, large: None, recipe: str, tied: bool, tensor_type: str
) -> None:
    folder = converted(tmp_path, recipe, tied=tied, tensor_type=tensor_type)
    whole = read_whole(tmp_path, recipe, tied=tied, tensor_type=tensor_type)
    own, expected = (Decoder(each).all_logits(IDS) for each in (folder, whole))
    likeliest = np.argsort(-own)[:, : SIZE // 2]
    exact, wanted = (np.take_along_axis(logits, likeliest, axis=1) for logits in (own, expected))
    assert relative_error(exact, wanted) < 0.01
    assert (own.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.9
    least = np.argsort(-own)[:, 2 * SIZE :]
    rough, wanted = (np.take_along_axis(logits, least, axis=1) for logits in (own, expected))
    assert 0.02 < relative_error(rough, wanted) < 0.2


def test_rows_of_several_sequences(tmp_path: Path, large: None) -> None:
    folder = converted(tmp_path, tensor_type="Q8_0")
    alone = Decoder(folder).all_logits(IDS)
    both = Decoder(folder, rows=2).step([IDS, IDS[:9]], [0, 0], [[23, 4, 4], [2, 8, 0]])
    np.testing.assert_allclose(both, np.stack([alone[[23, 4, 4]], alone[[2, 8, 0]]]), atol=1e-5)


def test_a_shortlist_of_everything_is_the_head_in_float32(
    tmp_path: Path, large: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shortlist, "SHORTLIST", 267)
    own = Decoder(converted(tmp_path, tensor_type="Q8_0")).all_logits(IDS)
    expected = Decoder(read_whole(tmp_path, tensor_type="Q8_0")).all_logits(IDS)
    assert relative_error(own, expected) < 0.01


def test_what_is_stored_for_the_preview_is_no_error(tmp_path: Path, large: None) -> None:
    report = read_description(converted(tmp_path, tensor_type="Q8_0")).report
    assert report["weights"] == {"Q8_0": 0.0}


@pytest.mark.parametrize(
    ("recipe", "target", "overrides"),
    [
        ("fp32", "cpu", {}),
        ("exact", "cuda", {}),
        ("exact", "directml", {}),
        ("compact", "cpu", {"tensor_type": "Q4_1"}),
    ],
)
def test_heads_that_are_read_once(
    tmp_path: Path, large: None, recipe: str, target: str, overrides: dict[str, Any]
) -> None:
    assert "TopK" not in kinds(converted(tmp_path, recipe, target, **overrides) / MODEL)


def test_prompts_and_crowds_read_all_of_it_in_int8(tmp_path: Path, large: None) -> None:
    folder = converted(tmp_path, "int8-rotated")
    assert ("TopK" in kinds(folder / MODEL), "TopK" in kinds(folder / BATCH)) == (True, False)


def test_which_heads_are_large() -> None:
    assert preview_format(Format(8, 32), (262_144, 640)) == Format(4, 128)
    assert preview_format(Format(8, 64), (128_256, 2048)) == Format(4, 128)
    assert preview_format(Format(4, 32, sums=True), (128_256, 2048)) is None
    assert preview_format(Format(8, 32), (49_152, 576)) is None
