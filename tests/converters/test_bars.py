"""What a conversion that loses too much comes to, and one that nobody can judge."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from appliance.bundle import DECODER_RECIPES, KV_TYPES, read_description
from appliance.errors import ConversionFailed, NotEnoughMemory
from converters import bundle
from converters.bars import BARS, judged
from converters.bundle import convert
from tests import real_model
from tests.tiny_model import write_tiny_gguf

READS = {"nll": 3.2, "source_nll": 3.2, "top1": 1.0}


@pytest.mark.parametrize("recipe", DECODER_RECIPES)
@pytest.mark.parametrize("kv", KV_TYPES)
def test_every_recipe_of_decoders_has_a_bar(recipe: str, kv: str) -> None:
    assert judged(READS, recipe, kv, 50_000).startswith("held")
    with pytest.raises(ConversionFailed, match=f"^the conversion loses 0.5000 nats .* {recipe} .*choose another"):
        judged({**READS, "nll": 3.7}, recipe, kv, 50_000)
    with pytest.raises(ConversionFailed, match=r"for 40.0 % of them"):
        judged({**READS, "top1": 0.4}, recipe, kv, 50_000)


def test_a_cache_in_int8_may_lose_a_little_more() -> None:
    lost = {**READS, "nll": READS["nll"] + BARS["exact"].nll + 0.01}
    assert judged(lost, "exact", "q8_0", 50_000).startswith("held")
    with pytest.raises(ConversionFailed):
        judged(lost, "exact", "f32", 50_000)
    with pytest.raises(ConversionFailed, match="PARAMETER kv_cache_type f32"):
        judged({**READS, "nll": 3.7}, "exact", "q8_0", 50_000)


def test_only_a_model_that_reads_is_judged() -> None:
    guesses = {"nll": 99.0, "source_nll": math.log(50_000), "top1": 0.1}
    assert judged(guesses, "exact", "f32", 50_000) == "not judged: the source cannot read the text"
    assert judged({"nll": 9.0}, "q4", "f32", 50_000).startswith("not judged: too little memory")


def test_a_check_of_random_weights_measures_and_does_not_judge(tmp_path: Path) -> None:
    convert(write_tiny_gguf(tmp_path / "m.gguf", tensor_type="F16"), tmp_path / "b", "exact", check=True)
    report = read_description(tmp_path / "b").report
    assert report["fidelity"]["bar"] == "not judged: the source cannot read the text"
    assert abs(report["fidelity"]["nll"] - report["fidelity"]["source_nll"]) < 0.1
    assert 0 < report["fidelity"]["kl"] < 0.05
    assert report["tokenizer"]["stable"]
    assert 0 < report["tensors"]["blk.0.attn_q.weight"] < 0.01
    assert not (tmp_path / "b" / bundle.REFERENCE).exists()


def test_a_check_that_has_no_room_says_how_much_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_tiny_gguf(tmp_path / "m.gguf")
    monkeypatch.setattr(bundle, "CHECK_FACTOR", 2.0**50)
    with pytest.raises(NotEnoughMemory):
        convert(source, tmp_path / "b", "exact", check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]


@pytest.mark.slow
def test_a_real_model_that_misses_its_bar_is_not_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BARS, "compact", BARS["fp32"])
    with pytest.raises(ConversionFailed, match=r"compact may lose 0\.001"):
        convert(real_model.model_path(), tmp_path / "b", "compact", check=True)
    assert list(tmp_path.iterdir()) == []
