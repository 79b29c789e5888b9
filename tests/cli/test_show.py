"""The sections of `show`, byte for byte."""

from __future__ import annotations

from typing import Any

import pytest

from appliance.cli.show import show_text

BARE: dict[str, Any] = {"details": {"family": "test", "parameter_size": "7B", "quantization_level": "FP16"}}
MODEL = """\
  Model
    architecture    test    
    parameters      7B      
    quantization    FP16    

"""  # noqa: W291


@pytest.mark.spec(96)
def test_bare_details() -> None:
    assert show_text(BARE) == MODEL


@pytest.mark.spec(96)
def test_model_info() -> None:
    facts = {
        "details": {"family": "test", "parameter_size": "", "quantization_level": "FP16"},
        "model_info": {
            "general.architecture": "test",
            "general.parameter_count": 8_000_000_000,
            "test.context_length": 131072,
            "test.embedding_length": 11434.0,
        },
        "requires": "0.19.0",
    }
    assert show_text(facts) == (
        "  Model\n"
        "    architecture        test      \n"
        "    parameters          8B        \n"
        "    context length      131072    \n"
        "    embedding length    11434     \n"
        "    quantization        FP16      \n"
        "    requires            0.19.0    \n"
        "\n"
    )


def test_what_the_model_was_converted_to() -> None:
    bundle: dict[str, Any] = {"recipe": "int8-rotated", "kv_cache_type": "q8_0", "size": 155_000_000}
    assert show_text(BARE | {"bundle": bundle}).splitlines()[4:] == [
        "    recipe          int8-rotated    ",
        "    kv cache        q8_0            ",
        "",
    ]
    bundle["fidelity"] = {"tokens": 2044, "nll": 3.1845, "source_nll": 3.1763, "top1": 0.9412}
    assert show_text(BARE | {"bundle": bundle}).splitlines()[6].split("  ")[2:] == [
        "fidelity", "", "", "", "NLL 3.1845 (source 3.1763, +0.0082), top-1 94.1 %", "", ""
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("likeness", "text"),
    [
        ({"texts": 27, "cosine": 0.99711, "least_cosine": 0.99408}, "cosine 0.9971 (at least 0.9941)"),
        ({"texts": 26, "score_error": 0.0512}, "scores off by 0.051 standard deviations"),
    ],
)
def test_what_an_encoder_was_converted_to(likeness: dict[str, Any], text: str) -> None:
    bundle = {"recipe": "int8", "size": 25_000_000, "likeness": likeness}
    assert show_text(BARE | {"bundle": bundle}).splitlines()[5].split("        ")[1].strip() == text


@pytest.mark.spec(96)
def test_verbose_adds_metadata_and_tensors() -> None:
    facts = {
        "details": {"family": "test", "parameter_size": "8B", "quantization_level": "FP16"},
        "model_info": {
            "general.architecture": "test",
            "general.parameter_count": 8_000_000_000,
            "some.true_bool": True,
            "some.false_bool": False,
            "some.nothing": None,
            "some.scale": 1e-05,
            "tokens.few": ["a", "b"],
            "tokens.many": [1, 2, 3, 4, 5, 6],
            "tokens.long": ["a very long token", "b"],
        },
        "tensors": [{"name": "blk.0.attn_q.weight", "type": "F16", "shape": [42, 3117]}],
    }
    assert show_text(facts).count("\n\n") == 1
    assert (
        show_text(facts, verbose=True).splitlines()
        == (
            "  Model\n"
            "    architecture    test    \n"
            "    parameters      8B      \n"
            "    quantization    FP16    \n"
            "\n"
            "  Metadata\n"
            "    general.architecture       test                              \n"
            "    general.parameter_count    8e+09                             \n"
            "    some.false_bool            false                             \n"
            "    some.nothing               <nil>                             \n"
            "    some.scale                 1e-05                             \n"
            "    some.true_bool             true                              \n"
            "    tokens.few                 [a b]                             \n"
            "    tokens.long                [a very long token ...+1 more]    \n"
            "    tokens.many                [1 2 3 ...+3 more]                \n"
            "\n"
            "  Tensors\n"
            "    blk.0.attn_q.weight    F16    [42 3117]    \n"
            "\n"
        ).splitlines()
    )


@pytest.mark.spec(96)
def test_parameters() -> None:
    facts = BARE | {"parameters": 'stop                           "<|end|>"\ntemperature                    99\n'}
    assert show_text(facts) == MODEL + (
        "  Parameters\n"
        '    stop           "<|end|>"    \n'
        "    temperature    99           \n"
        "\n"
    )  # fmt: skip


@pytest.mark.spec(96)
def test_capabilities_and_projector() -> None:
    facts = BARE | {
        "capabilities": ["completion", "vision"],
        "projector_info": {
            "general.architecture": "clip",
            "general.parameter_count": 133_700_000,
            "clip.vision.embedding_length": 9001,
            "clip.vision.projection_dim": 9001,
        },
    }
    assert show_text(facts) == MODEL + (
        "  Capabilities\n"
        "    completion    \n"
        "    vision        \n"
        "\n"
        "  Projector\n"
        "    architecture        clip       \n"
        "    parameters          133.70M    \n"
        "    embedding length    9001       \n"
        "    dimensions          9001       \n"
        "\n"
    )


@pytest.mark.spec(96)
@pytest.mark.parametrize("key", ["system", "license"])
def test_long_texts_are_cut_after_two_lines(key: str) -> None:
    title = key.capitalize()
    assert show_text(BARE | {key: "You are a pirate!\n\n  Ahoy, matey!\n"}) == MODEL + (
        f"  {title}\n"
        "    You are a pirate!    \n"
        "    Ahoy, matey!         \n"
        "\n"
    )  # fmt: skip
    assert show_text(BARE | {key: "You are a pirate!\nAhoy, matey!\nWeigh anchor!\n"}) == MODEL + (
        f"  {title}\n"
        "    You are a pirate!    \n"
        "    Ahoy, matey!         \n"
        "    ...                  \n"
        "\n"
    )  # fmt: skip
