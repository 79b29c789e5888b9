"""What an inspection says before a conversion, held against the conversion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from appliance.bundle import RECIPES
from appliance.errors import ApplianceError, NotGGUF
from converters.bundle import convert
from converters.gguf_source import GGUFSource
from converters.inspection import inspect
from tests.tiny_adapter import write_gguf_adapter
from tests.tiny_model import write_tiny_gguf


def test_it_says_what_the_conversion_will_take(tmp_path: Path) -> None:
    source = write_tiny_gguf(tmp_path / "m.gguf", tensor_type="Q4_0")
    found = inspect(source)
    assert (found.architecture, found.kind, found.refused) == ("llama", "decoder", "")
    assert (found.context_tokens, found.kv_values, found.quantised) == (512, 2 * 2 * 2 * 16, True)
    for recipe in ("exact", "compact", "int8-rotated", "q4", "fp32"):
        bundle = convert(source, tmp_path / recipe, recipe)
        size = sum(path.stat().st_size for path in (tmp_path / recipe).iterdir())
        assert bundle.parameters == found.parameters
        assert size <= found.recipes[recipe].disk_bytes <= size + (1 << 20)


def test_matrices_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_tiny_gguf(tmp_path / "m.gguf")
    read = GGUFSource.values

    def vectors(self: GGUFSource, tensor: object) -> np.ndarray:
        assert len(tensor.shape) == 1  # type: ignore[attr-defined]
        return read(self, tensor)  # type: ignore[arg-type]

    monkeypatch.setattr(GGUFSource, "values", vectors)
    assert not inspect(source).refused


@pytest.mark.parametrize(
    "change",
    [
        {"metadata": {"llama.expert_count": 8}},
        {"metadata": {"llama.rope.scaling.type": "yarned"}},
        {"metadata": {"tokenizer.ggml.pre": "unheard-of"}},
        {"tensors": {"blk.0.attn_q.weight": None}},
        {"tensors": {"blk.0.attn_extra.weight": np.ones((4, 4), np.float32)}},
    ],
)
def test_a_refusal_is_that_of_the_conversion(tmp_path: Path, change: dict[str, object]) -> None:
    source = write_tiny_gguf(tmp_path / "m.gguf", **change)  # type: ignore[arg-type]
    with pytest.raises(ApplianceError) as caught:
        convert(source, tmp_path / "b", "exact")
    found = inspect(source)
    assert found.refused == str(caught.value)
    assert (found.architecture, found.recipes) == ("llama", {})
    assert found.parameters > 0


def test_a_recipe_that_does_not_apply_is_refused_alone(tmp_path: Path) -> None:
    found = inspect(write_tiny_gguf(tmp_path / "m.gguf", hidden=48, heads=3, kv_heads=1))
    assert "columns" in found.recipes["exact"].refused
    assert not found.recipes["fp32"].refused
    assert {*found.recipes} == {*RECIPES}


def test_an_adapter_is_part_of_what_is_inspected(tmp_path: Path) -> None:
    source = write_tiny_gguf(tmp_path / "m.gguf", tensor_type="Q4_0")
    plain, adapted = inspect(source), inspect(source, write_gguf_adapter(tmp_path / "a.gguf"))
    assert adapted.recipes["compact"].disk_bytes > plain.recipes["compact"].disk_bytes
    found = inspect(source, write_gguf_adapter(tmp_path / "b.gguf", architecture="qwen2"))
    assert found.refused.startswith("an adapter for the architecture 'qwen2'")


def test_what_is_no_model_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("not a model at all")
    with pytest.raises(NotGGUF):
        inspect(tmp_path / "x")
