"""Small real vocabularies, trained on the tests' texts, and texts to hold tokenizers against."""

from __future__ import annotations

import functools
import json
import warnings
from pathlib import Path
from typing import Any

from gguf import GGUFWriter
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from appliance.store.gguf_header import read_header
from converters.tokenizers import read_vocabulary
from tests.tiny_model import CONTROL, add_key

DATA = Path(__file__).parent / "data"
MULTILINGUAL = (DATA / "multilingual.txt").read_text(encoding="utf-8")
ENGLISH = (DATA / "english.txt").read_text(encoding="utf-8")
SAMPLES = [
    MULTILINGUAL,
    ENGLISH[:2000],
    "",
    " ",
    "   leading and trailing   ",
    "tabs\tand\r\nline ends\n\n\n  \n x\n",
    "I'm he'LL They'VE don't 'tis O'Neill's",
    "1 12 123 1234 12345678 3.14159 ½ ² Ⅷ 一二三 ١٢٣",
    "CamelCaseHTTPServer snake_case kebab-case C++ #include <x.h> a/b//c",
    "Ünïcödé e\u0301 ﬁ ẞ ñ Ω Привет мир 你好，世界 こんにちは 한국어 ไทย हिन्दी 🦙👩‍👩‍👧",
    "!!! ... ??? (((a))) [b] {c} $5 <= >= => ~~ `code` ^^ ||",
    "\u00a0non\u2003breaking\u3000spaces\u200b",
]
ALPHABET = " \n\tabcABC'sltdmre019.,!?-_/<>|▁éß\u0301\u00a0\u3000Ωи你好한🦙"


@functools.cache
def byte_level() -> dict[str, Any]:
    """Metadata of a byte-level vocabulary; the last three tokens are control tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=1200, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([ENGLISH, MULTILINGUAL * 3, " ".join(SAMPLES)], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    tokens = [*sorted(model["vocab"], key=model["vocab"].get), *CONTROL]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": [" ".join(merge) for merge in model["merges"]],
        "tokenizer.ggml.token_type": [1] * len(model["vocab"]) + [3] * len(CONTROL),
        "tokenizer.ggml.eos_token_id": len(tokens) - 1,
    }


def train_sentencepiece(path: Path, **options: Any) -> Path:
    """Train a SentencePiece model on the texts and return its file, beginning with `path`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import sentencepiece

    text = path.with_suffix(".txt")
    text.write_text(ENGLISH + MULTILINGUAL, encoding="utf-8")
    defaults = {"vocab_size": 900, "character_coverage": 0.99, "minloglevel": 2, "num_threads": 1}
    sentencepiece.SentencePieceTrainer.train(input=str(text), model_prefix=str(path), **{**defaults, **options})
    return path.with_suffix(".model")


def sentencepiece_metadata(file: Path, kind: str) -> dict[str, Any]:
    """A SentencePiece model as llama.cpp's converter writes it, with its normaliser."""
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece.SentencePieceProcessor(model_file=str(file))
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(file.read_bytes())
    metadata = {
        "tokenizer.ggml.model": kind,
        "tokenizer.ggml.tokens": [piece.piece for piece in proto.pieces],
        "tokenizer.ggml.scores": [piece.score for piece in proto.pieces],
        "tokenizer.ggml.token_type": [piece.type for piece in proto.pieces],
        "tokenizer.ggml.add_space_prefix": proto.normalizer_spec.add_dummy_prefix,
    }
    assert model.get_piece_size() == len(proto.pieces)
    if kind == "t5":
        metadata["tokenizer.ggml.remove_extra_whitespaces"] = proto.normalizer_spec.remove_extra_whitespaces
        if proto.normalizer_spec.precompiled_charsmap:
            metadata["tokenizer.ggml.precompiled_charsmap"] = list(proto.normalizer_spec.precompiled_charsmap)
    return metadata


def through_file(metadata: dict[str, Any], path: Path) -> dict[str, Any]:
    """The metadata as it comes back from a GGUF file at `path`."""
    writer = GGUFWriter(path, "test")
    for key, value in metadata.items():
        add_key(writer, key, bytes(value) if key.endswith("charsmap") else value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return read_header(path).metadata


def encode(metadata: dict[str, Any], text: str, special: bool = False) -> list[int]:
    """The tokens of `text`, with `special` those around it too."""
    ids: list[int] = read_vocabulary(metadata).tokenizer.encode(text, add_special_tokens=special).ids
    return ids


def transformers() -> Any:
    """The library, without its warnings on import."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers

        return transformers
