"""Tokenizers built from metadata, token by token against the models' original tokenizers."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from appliance.errors import NotGGUF, UnsupportedModel
from converters.tokenizers import read_vocabulary
from converters.tokenizers.pretokenizers import PRE_TOKENIZERS
from tests.tiny_vocabulary import (
    ALPHABET,
    MULTILINGUAL,
    SAMPLES,
    byte_level,
    encode,
    sentencepiece_metadata,
    through_file,
    train_sentencepiece,
    transformers,
)


@pytest.fixture(scope="module")
def trained() -> dict[str, Any]:
    """Metadata of a byte-level vocabulary trained on the test texts."""
    return byte_level()


# ---- the original classes of transformers


def byte_level_files(metadata: dict[str, Any], folder: Path) -> tuple[str, str]:

    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    tokens = metadata["tokenizer.ggml.tokens"]
    vocab.write_text(json.dumps({token: index for index, token in enumerate(tokens)}), encoding="utf-8")
    merges.write_text("#version: 0.2\n" + "\n".join(metadata["tokenizer.ggml.merges"]) + "\n", encoding="utf-8")
    return str(vocab), str(merges)


@pytest.mark.parametrize(
    ("pre", "name"),
    [
        ("gpt-2", "GPT2Tokenizer"),
        ("gpt-2", "GPT2TokenizerFast"),
        ("qwen2", "Qwen2Tokenizer"),
        ("qwen2", "Qwen2TokenizerFast"),
    ],
)
def test_original_byte_level_tokenizers(trained: dict[str, Any], tmp_path: Path, pre: str, name: str) -> None:
    original = getattr(transformers(), name)(*byte_level_files(trained, tmp_path), unk_token="<|endoftext|>")
    for text in SAMPLES:
        text = text.replace("<|", "< |")  # control tokens are another test's matter
        expected = original.encode(text, add_special_tokens=False)
        assert encode({**trained, "tokenizer.ggml.pre": pre}, text) == expected


# ---- SentencePiece


@pytest.fixture(scope="module")
def sentencepiece_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_sentencepiece(
        tmp_path_factory.mktemp("sentencepiece") / "spm",
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        user_defined_symbols=["<tool>"],
    )


@pytest.fixture(scope="module")
def spm(sentencepiece_file: Path) -> dict[str, Any]:
    return through_file(sentencepiece_metadata(sentencepiece_file, "llama"), sentencepiece_file.with_suffix(".gguf"))


CONTROL_IN_TEXT = ["a<s>b</s> c", "x<tool>y <tool> z<unk>", MULTILINGUAL]


@pytest.mark.parametrize("name", ["LlamaTokenizer", "LlamaTokenizerFast"])
def test_original_llama_tokenizer(sentencepiece_file: Path, spm: dict[str, Any], name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        original = getattr(transformers(), name)(str(sentencepiece_file), legacy=True, add_prefix_space=True)
        fast = name.endswith("Fast")  # the slow class drops spaces around control tokens
        for text in [*(text.replace("</", "< /") for text in SAMPLES), *(CONTROL_IN_TEXT if fast else [])]:
            assert encode(spm, text) == original.encode(text, add_special_tokens=False)


def test_sentencepiece_decodes_what_it_encoded(spm: dict[str, Any]) -> None:
    tokenizer = read_vocabulary(spm).tokenizer
    for text in SAMPLES:
        tokenizer.encode_special_tokens = True
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


@pytest.fixture(scope="module")
def both(sentencepiece_file: Path, spm: dict[str, Any]) -> tuple[Tokenizer, Any]:
    """Ours and SentencePiece itself."""
    import sentencepiece

    return read_vocabulary(spm).tokenizer, sentencepiece.SentencePieceProcessor(model_file=str(sentencepiece_file))


@settings(deadline=None, max_examples=60)
@given(text=st.text(alphabet=ALPHABET, max_size=40))
def test_any_text_is_tokenized_as_by_sentencepiece(both: tuple[Tokenizer, Any], text: str) -> None:
    tokenizer, model = both
    text = text.replace("<", "(")  # control tokens are another test's matter
    text = text.replace("▁", "_")  # the original takes a ▁ in a text for a space, transformers and llama.cpp too
    assert tokenizer.encode(text, add_special_tokens=False).ids == model.encode(text)


def test_sentencepiece_without_space_prefix(sentencepiece_file: Path, spm: dict[str, Any]) -> None:
    metadata = {**spm, "tokenizer.ggml.add_space_prefix": False}
    with_prefix, without = encode(spm, "the"), encode(metadata, "the")
    tokens = metadata["tokenizer.ggml.tokens"]
    assert "".join(tokens[index] for index in with_prefix) == "▁the"
    assert "".join(tokens[index] for index in without) == "the"
    assert read_vocabulary(metadata).tokenizer.decode(encode(metadata, " the")) == " the"


# ---- special tokens


def test_control_tokens_in_text_are_found(trained: dict[str, Any]) -> None:
    metadata = {**trained, "tokenizer.ggml.pre": "gpt-2"}
    first = len(metadata["tokenizer.ggml.tokens"]) - 3
    ids = encode(metadata, "<|im_start|>user\nhi<|im_end|>\n")
    assert (ids[0], ids[-2]) == (first + 1, first + 2)
    tokenizer = read_vocabulary(metadata).tokenizer
    assert tokenizer.decode(ids) == "user\nhi\n"
    assert tokenizer.decode(ids, skip_special_tokens=False) == "<|im_start|>user\nhi<|im_end|>\n"


def test_user_defined_tokens_are_text(trained: dict[str, Any]) -> None:
    types = [*trained["tokenizer.ggml.token_type"][:-3], 4, 3, 3]
    metadata = {**trained, "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.token_type": types}
    ids = encode(metadata, "a<|endoftext|>b")
    assert len(types) - 3 in ids
    assert read_vocabulary(metadata).tokenizer.decode(ids) == "a<|endoftext|>b"


def test_what_is_around_a_text_is_the_post_processors_matter(spm: dict[str, Any]) -> None:
    vocabulary = read_vocabulary(spm)
    assert vocabulary.add_bos
    assert vocabulary.bos_token == 1
    bare = vocabulary.tokenizer.encode("the", add_special_tokens=False).ids
    assert vocabulary.tokenizer.encode("the").ids == [1, *bare]
    vocabulary.check_decoder()


def test_a_trailing_eos_is_for_encoders(trained: dict[str, Any]) -> None:
    """Qwen3-Embedding's kind."""
    metadata = {**trained, "tokenizer.ggml.pre": "qwen2", "tokenizer.ggml.add_eos_token": True}
    vocabulary = read_vocabulary(metadata)
    eos = len(trained["tokenizer.ggml.tokens"]) - 1
    assert encode(metadata, "the", special=True) == [*encode(metadata, "the"), eos]
    assert not vocabulary.add_bos
    with pytest.raises(UnsupportedModel, match="special tokens around every text"):
        vocabulary.check_decoder()


def test_a_pair_of_roberta_has_two_separators(trained: dict[str, Any]) -> None:
    """<s> query </s></s> document </s>, and no types, as RoBERTa's own post-processor does."""
    flags = {f"tokenizer.ggml.add_{name}_token": True for name in ("bos", "eos")}
    ids = {"bos": 3, "eos": 4, "seperator": 4}
    metadata = {**trained, **flags, "tokenizer.ggml.pre": "roberta-bpe"}
    metadata |= {f"tokenizer.ggml.{name}_token_id": index for name, index in ids.items()}
    pair = read_vocabulary(metadata).tokenizer.encode("one", "two")
    assert pair.ids == [3, *encode(metadata, "one"), 4, 4, *encode(metadata, "two"), 4]
    assert set(pair.type_ids) == {0}


def test_a_token_that_is_to_be_added_must_exist(trained: dict[str, Any]) -> None:
    with pytest.raises(NotGGUF, match="add_sep_token is true, but there is no such token"):
        read_vocabulary({**trained, "tokenizer.ggml.pre": "roberta-bpe"})


def test_a_colon_in_a_special_token_is_no_type(trained: dict[str, Any]) -> None:
    tokens = [*trained["tokenizer.ggml.tokens"][:-1], "<|a:eos|>"]
    metadata = {**trained, "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.add_eos_token": True}
    assert encode(metadata, "x", special=True)[-1] == len(tokens) - 1


@pytest.mark.parametrize(
    ("key", "value", "text", "kept"),
    [
        ("general.name", "Phi-3 mini", "a<|im_end|>\n b", "ab"),
        ("general.name", "Phi-3 mini", "a<|endoftext|>\n b", "a\n b"),
        ("general.name", "Other", "a<|im_end|>\n b", "a\n b"),
    ],
)
def test_whitespace_beside_control_tokens(trained: dict[str, Any], key: str, value: str, text: str, kept: str) -> None:
    metadata = {**trained, key: value, "tokenizer.ggml.pre": "gpt-2"}
    tokenizer = read_vocabulary(metadata).tokenizer
    assert tokenizer.decode(tokenizer.encode(text).ids) == kept


def test_vocabularies_with_spaces_instead_of_bytes() -> None:
    """Gemma's merges with ▁ in a file that says "gpt2": granite-embed-multi-311m."""
    words = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *"ab▁\n"]
    merges = ["a b", "▁ ab", "▁ ▁", "\n \n"]
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "granite-embed-multi-311m",
        "tokenizer.ggml.tokens": [*words, *(merge.replace(" ", "") for merge in merges)],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.token_type": [3] * 4 + [6] * 256 + [1] * 8,
    }
    spelled = [metadata["tokenizer.ggml.tokens"][token] for token in encode(metadata, "ab ab  b\n\né")]
    assert spelled == ["ab", "▁ab", "▁▁", "b", "\n\n", "<0xC3>", "<0xA9>"]
    tokenizer = read_vocabulary(metadata).tokenizer
    assert tokenizer.decode(encode(metadata, "ab ab  b\n\né")) == "ab ab  b\n\né"


@pytest.mark.parametrize(
    ("pre", "given", "expected"),
    [("gpt-2", None, False), ("llama-bpe", None, True), ("llama-bpe", False, False), ("gpt-2", True, True)],
)
def test_add_bos(trained: dict[str, Any], pre: str, given: bool | None, expected: bool) -> None:
    metadata = {**trained, "tokenizer.ggml.pre": pre, "tokenizer.ggml.bos_token_id": 3}
    if given is not None:
        metadata["tokenizer.ggml.add_bos_token"] = given
    assert read_vocabulary(metadata).add_bos is expected


def test_end_of_generation(trained: dict[str, Any]) -> None:
    first = len(trained["tokenizer.ggml.tokens"])
    extra = ["<|end|>", "<|eot_id|>", "<|eom_id|>", "<tool_call>", "</s>"]
    kinds = [3, 3, 3, 3, 1]  # the last is no control token, so it may be ordinary text
    metadata = {
        **trained,
        "tokenizer.ggml.tokens": [*trained["tokenizer.ggml.tokens"], *extra],
        "tokenizer.ggml.token_type": [*trained["tokenizer.ggml.token_type"], *kinds],
        "tokenizer.ggml.eos_token_id": 7,
        "tokenizer.ggml.eot_token_id": 5,
    }
    endoftext, _, im_end = range(first - 3, first)
    assert read_vocabulary(metadata).eos_tokens == (7, 5, endoftext, im_end, first, first + 1, first + 2)


def test_end_may_end_only_a_message(trained: dict[str, Any]) -> None:
    first = len(trained["tokenizer.ggml.tokens"])
    metadata = {
        **trained,
        "tokenizer.ggml.tokens": [*trained["tokenizer.ggml.tokens"], "<|end|>", "<|return|>", "<|call|>"],
        "tokenizer.ggml.token_type": [*trained["tokenizer.ggml.token_type"], 3, 3, 3],
    }
    eos = read_vocabulary(metadata).eos_tokens
    assert first not in eos
    assert {first + 1, first + 2} <= set(eos)


# ---- refusals


def test_unknown_pre_tokenizers_are_refused_with_the_known_ones(trained: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedModel, match=r"pre-tokenizer 'klingon' is not supported.*llama-bpe.*smollm") as error:
        read_vocabulary({**trained, "tokenizer.ggml.pre": "klingon"})
    assert error.value.supported == tuple(sorted(PRE_TOKENIZERS))


@pytest.mark.parametrize(
    ("change", "kind", "reason"),
    [
        ({"model": "rwkv"}, UnsupportedModel, "tokenizer 'rwkv'"),
        ({"model": None}, NotGGUF, "model is missing"),
        ({"tokens": None}, NotGGUF, "tokens is missing"),
        ({"tokens": ["a", "a"]}, NotGGUF, "a token twice"),
        ({"tokens": [1, 2]}, NotGGUF, "not text"),
        ({"merges": None}, NotGGUF, "merges is missing"),
        ({"merges": ["nospace"]}, NotGGUF, "the merge 'nospace'"),
        ({"merges": ["qq zz"]}, NotGGUF, "merges"),
        ({"merges": 5}, NotGGUF, "merges has no entries"),
        ({"token_type": [1]}, NotGGUF, "token_type has 1 entries"),
        ({"eos_token_id": 10**6}, NotGGUF, "eos_token_id is 1000000"),
        ({"bos_token_id": -1}, NotGGUF, "bos_token_id is -1"),
        ({"add_eos_token": True, "eos_token_id": None}, NotGGUF, "add_eos_token is true"),
        ({"add_bos_token": 1}, NotGGUF, "add_bos_token is '1', not true or false"),
        ({"suppress_tokens": [3]}, UnsupportedModel, "suppress_tokens"),
        ({"eos_token_ids": [10**6]}, NotGGUF, "eos_token_ids has 1000000"),
        ({"model": "t5"}, NotGGUF, "scores is missing"),
        ({"model": "llama", "precompiled_charsmap": [1]}, UnsupportedModel, "precompiled_charsmap"),
        ({"model": "llama"}, NotGGUF, "scores is missing"),
        ({"model": "llama", "scores": [0.0]}, NotGGUF, "scores has 1 entries"),
    ],
)
def test_damaged_tokenizers_are_refused(
    trained: dict[str, Any], change: dict[str, Any], kind: type[Exception], reason: str
) -> None:
    metadata = {**trained, **{f"tokenizer.ggml.{name}": value for name, value in change.items()}}
    with pytest.raises(kind, match=reason):
        read_vocabulary(metadata)
