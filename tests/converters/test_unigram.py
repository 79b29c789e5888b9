"""SentencePiece's unigram model, with its table of characters, as embedding models of many languages have it."""

from __future__ import annotations

import unicodedata
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from appliance.errors import NotGGUF
from converters.tokenizers import read_vocabulary
from tests.tiny_vocabulary import (
    ALPHABET,
    SAMPLES,
    encode,
    sentencepiece_metadata,
    through_file,
    train_sentencepiece,
    transformers,
)


@pytest.fixture(scope="module")
def spm_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_sentencepiece(tmp_path_factory.mktemp("unigram") / "spm", model_type="unigram", vocab_size=500)


def as_xlm_roberta(metadata: dict[str, Any]) -> dict[str, Any]:
    """Lay the tokens out as XLM-R does: its four control tokens first, a mask last, and filler as converters add."""
    tokens, scores, types = (metadata[f"tokenizer.ggml.{name}"][3:] for name in ("tokens", "scores", "token_type"))
    return {
        **metadata,
        "tokenizer.ggml.tokens": ["<s>", "<pad>", "</s>", "<unk>", *tokens, "<mask>", "[PAD0]"],
        "tokenizer.ggml.scores": [0.0] * 4 + scores + [0.0, -10000.0],
        "tokenizer.ggml.token_type": [3, 3, 3, 2, *types, 3, 5],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.seperator_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 3,
        **{f"tokenizer.ggml.add_{name}_token": True for name in ("bos", "eos", "sep")},
    }


@pytest.fixture(scope="module")
def xlm_roberta(spm_file: Path) -> dict[str, Any]:
    return through_file(as_xlm_roberta(sentencepiece_metadata(spm_file, "t5")), spm_file.with_suffix(".gguf"))


@pytest.fixture(scope="module")
def tokenizer(xlm_roberta: dict[str, Any]) -> Tokenizer:
    return read_vocabulary(xlm_roberta).tokenizer


@pytest.fixture(scope="module")
def original(spm_file: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return transformers().XLMRobertaTokenizer(str(spm_file))


def plain(text: str) -> str:
    """The text without what is a token of its own or a grapheme of several characters, where libraries differ."""
    text = "".join(char for char in text if char not in "<▁\u200d\u0301")
    return unicodedata.normalize("NFC", text)


@pytest.mark.parametrize("text", SAMPLES)
def test_texts_are_tokenized_as_by_the_original(xlm_roberta: dict[str, Any], original: Any, text: str) -> None:
    assert encode(xlm_roberta, plain(text), special=True) == original.encode(plain(text))


@settings(deadline=None, max_examples=60)
@given(text=st.text(alphabet=ALPHABET, max_size=40).map(plain))
def test_any_text_is_tokenized_as_by_the_original(tokenizer: Tokenizer, original: Any, text: str) -> None:
    assert tokenizer.encode(text).ids == original.encode(text)


def test_a_pair_has_two_separators_and_no_types(xlm_roberta: dict[str, Any], original: Any) -> None:
    pair = read_vocabulary(xlm_roberta).tokenizer.encode("a question", "an answer")
    assert pair.ids == original.encode("a question", "an answer")
    assert set(pair.type_ids) == {0}


def test_control_tokens_in_a_text_are_found(xlm_roberta: dict[str, Any]) -> None:
    mask = xlm_roberta["tokenizer.ggml.tokens"].index("<mask>")
    assert mask in encode(xlm_roberta, "the <mask> of it")
    assert read_vocabulary(xlm_roberta).tokenizer.decode(encode(xlm_roberta, "the <mask>it")) == "the it"


def test_t5s_own_way_ends_with_eos(spm_file: Path) -> None:
    metadata = sentencepiece_metadata(spm_file, "t5") | {"tokenizer.ggml.unknown_token_id": 0}
    vocabulary = read_vocabulary(metadata | {"tokenizer.ggml.eos_token_id": 2})
    assert [*encode(metadata, "the"), 2] == vocabulary.tokenizer.encode("the").ids
    assert not vocabulary.add_bos


@pytest.mark.parametrize("remove", [True, False])
@pytest.mark.parametrize("prefix", [True, False])
def test_spaces_are_kept_or_removed_as_the_file_says(tmp_path: Path, remove: bool, prefix: bool) -> None:
    import sentencepiece

    file = train_sentencepiece(
        tmp_path / "spm",
        model_type="unigram",
        vocab_size=500,
        remove_extra_whitespaces=remove,
        add_dummy_prefix=prefix,
        normalization_rule_name="identity",
    )
    model = sentencepiece.SentencePieceProcessor(model_file=str(file))
    for text in ["  two  spaces  ", "none", " ", "", "a\n b", *SAMPLES[4:6]]:
        assert encode(sentencepiece_metadata(file, "t5"), text) == model.encode(text)
    back = read_vocabulary(sentencepiece_metadata(file, "t5")).tokenizer.decode(model.encode("  two  spaces  "))
    assert back == ("two spaces" if remove else "  two  spaces  ")


def test_tokens_may_reach_over_spaces(tmp_path: Path) -> None:
    import sentencepiece

    file = train_sentencepiece(tmp_path / "spm", model_type="unigram", vocab_size=1000, split_by_whitespace=False)
    model, metadata = sentencepiece.SentencePieceProcessor(model_file=str(file)), sentencepiece_metadata(file, "t5")
    assert any("▁" in token[1:] for token in metadata["tokenizer.ggml.tokens"])
    assert encode(metadata, "of the book in the end") == model.encode("of the book in the end")


def test_bytes_stand_for_unknown_characters(tmp_path: Path) -> None:
    import sentencepiece

    file = train_sentencepiece(tmp_path / "spm", model_type="unigram", vocab_size=700, byte_fallback=True)
    model, metadata = sentencepiece.SentencePieceProcessor(model_file=str(file)), sentencepiece_metadata(file, "t5")
    assert encode(metadata, "a ☃ snowman") == model.encode("a ☃ snowman")
    assert read_vocabulary(metadata).tokenizer.decode(encode(metadata, "a ☃ snowman")) == "a ☃ snowman"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"precompiled_charsmap": [1, 2]}, "precompiled_charsmap"),
        ({"unknown_token_id": 10**6}, "unknown_token_id is 1000000"),
        ({"scores": ["high"] * 500}, "scores"),
    ],
)
def test_damaged_files_are_refused(spm_file: Path, change: dict[str, Any], reason: str) -> None:
    metadata = sentencepiece_metadata(spm_file, "t5")
    metadata["tokenizer.ggml.token_type"] = [3, 3, 3, *metadata["tokenizer.ggml.token_type"][3:]]
    with pytest.raises(NotGGUF, match=reason):
        read_vocabulary(metadata | {f"tokenizer.ggml.{name}": value for name, value in change.items()})
