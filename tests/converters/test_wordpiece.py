"""BERT's tokenizer from GGUF's spelling of its vocabulary, against transformers' own."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import BertWordPieceTokenizer, Tokenizer

from appliance.errors import NotGGUF
from converters.tokenizers import read_vocabulary
from tests.tiny_vocabulary import ALPHABET, ENGLISH, MULTILINGUAL, SAMPLES, encode, through_file, transformers

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@pytest.fixture(scope="module")
def words() -> list[str]:
    trainer = BertWordPieceTokenizer(lowercase=False, strip_accents=False)
    trainer.train_from_iterator(
        [ENGLISH, ENGLISH.lower(), MULTILINGUAL * 3, MULTILINGUAL.lower()],
        vocab_size=900,
        min_frequency=1,
        show_progress=False,
        special_tokens=list(SPECIAL),
    )
    vocab = json.loads(trainer.to_str())["model"]["vocab"]
    return sorted(vocab, key=vocab.get)


def metadata_of(words: list[str], **more: Any) -> dict[str, Any]:
    """As llama.cpp's converter writes it: ▁ in front of what begins a word, ## left out."""
    special = [word in SPECIAL for word in words]
    tokens = [
        word if control else word[2:] if word.startswith("##") else "▁" + word
        for word, control in zip(words, special, strict=True)
    ]
    ids = {"bos": 2, "seperator": 3, "unknown": 1, "padding": 0}
    return {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if control else 1 for control in special],
        "tokenizer.ggml.token_type_count": 2,
        **{f"tokenizer.ggml.{name}_token_id": index for name, index in ids.items()},
        **{f"tokenizer.ggml.{name}": value for name, value in more.items()},
    }


@pytest.fixture(scope="module")
def vocab_file(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("bert") / "vocab.txt"
    file.write_text("\n".join(words) + "\n", encoding="utf-8")
    return file


CASES = [{}, {"normalizer.lowercase": False}, {"normalizer.lowercase": True, "normalizer.strip_accents": False}]


@pytest.mark.parametrize("name", ["BertTokenizer", "BertTokenizerFast"])
@pytest.mark.parametrize("more", CASES, ids=["lower case", "cased", "accents kept"])
def test_texts_are_tokenized_as_by_the_original(
    words: list[str], vocab_file: Path, more: dict[str, bool], name: str
) -> None:
    original = getattr(transformers(), name)(
        str(vocab_file),
        do_lower_case=more.get("normalizer.lowercase", True),
        strip_accents=more.get("normalizer.strip_accents"),
    )
    for text in [*SAMPLES, "x" * 101, "[CLS] in a text [MASK]"]:
        if name == "BertTokenizer":  # the slow class composes characters first, the fast one that models use does not
            text = unicodedata.normalize("NFC", text)
        assert encode(metadata_of(words, **more), text, special=True) == original.encode(text)


@pytest.fixture(scope="module")
def both(words: list[str], vocab_file: Path) -> tuple[Tokenizer, Any]:
    """Ours, from a file, and the original."""
    metadata = through_file(metadata_of(words), vocab_file.with_suffix(".gguf"))
    return read_vocabulary(metadata).tokenizer, transformers().BertTokenizerFast(str(vocab_file))


@settings(deadline=None, max_examples=60)
@given(text=st.text(alphabet=ALPHABET, max_size=40) | st.text(max_size=20))
def test_any_text_is_tokenized_as_by_the_original(both: tuple[Tokenizer, Any], text: str) -> None:
    tokenizer, original = both
    assert tokenizer.encode(text).ids == original.encode(text)


def test_the_second_text_of_a_pair_has_a_type_of_its_own(words: list[str], vocab_file: Path) -> None:
    expected = transformers().BertTokenizerFast(str(vocab_file))("a question", "an answer")
    pair = read_vocabulary(metadata_of(words)).tokenizer.encode("a question", "an answer")
    assert (pair.ids, pair.type_ids) == (expected["input_ids"], expected["token_type_ids"])
    one_type = read_vocabulary(metadata_of(words, token_type_count=1)).tokenizer.encode("a question", "an answer")
    assert set(one_type.type_ids) == {0}


def test_decoding_puts_spaces_between_words(words: list[str]) -> None:
    tokenizer = read_vocabulary(metadata_of(words)).tokenizer
    assert tokenizer.decode(encode(metadata_of(words), "The harbour", special=True)) == "the harbour"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"seperator_token_id": None, "bos_token_id": None}, "ids of .CLS. and .SEP. are missing"),
        ({"unknown_token_id": None}, "unknown_token_id is missing"),
        ({"tokens": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "▁[CLS]"]}, "a token twice"),
        ({"normalizer.lowercase": "yes"}, "lowercase is 'yes'"),
    ],
)
def test_damaged_files_are_refused(change: dict[str, Any], reason: str) -> None:
    metadata = metadata_of(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "word"])
    metadata |= {f"tokenizer.ggml.{name}": value for name, value in change.items()}
    with pytest.raises(NotGGUF, match=reason):
        read_vocabulary(metadata)
