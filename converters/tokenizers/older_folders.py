"""Folders without a tokenizer.json: a SentencePiece model or BERT's vocab.txt, as GGUF's metadata.

What the tokenizer is follows from the class that tokenizer_config.json names, as in transformers'
convert_slow_tokenizer.py; classes that lay their tokens out in ways of their own are refused by name.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from appliance.errors import ModelFileError, UnsupportedModel
from appliance.store.hugging_face import read_object
from converters.tokenizers.bpe import SPACE
from converters.tokenizers.entries import CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED
from converters.tokenizers.hugging_face import LIKE_BERT, TOKENIZER, Settings
from converters.tokenizers.wordpiece import INSIDE

SENTENCEPIECE = ("tokenizer.model", "sentencepiece.bpe.model")
VOCAB = "vocab.txt"
UNIGRAM, BPE = 1, 2  # SentencePiece's numbers
CLASSES = {"Llama": BPE, "Gemma": BPE, "XLMRoberta": UNIGRAM}
SPECIAL_OF_BERT = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def older_metadata(settings: Settings, vocab_size: int) -> dict[str, Any]:
    """The tokenizer of the folder in the keys of GGUF, tokenizer.ggml.*.

    Raises UnsupportedModel and ModelFileError for a folder that has no tokenizer we read.
    """
    files = settings.files
    model = next((name for name in SENTENCEPIECE if name in files), None)
    if model is not None:
        found = _sentencepiece(model, settings)
    elif VOCAB in files:
        found = _bert(settings)
    else:
        raise ModelFileError(f"the model has no {TOKENIZER}, none of {', '.join(SENTENCEPIECE)}, and no {VOCAB}")
    if len(found["tokens"]) > vocab_size:
        raise ModelFileError(
            f"the tokenizer has {len(found['tokens']):,} tokens, the model's vocabulary {vocab_size:,}"
        )
    found["eos_token_ids"] = [index for index in settings.end_ids() if index < len(found["tokens"])]
    return {f"tokenizer.ggml.{key}": value for key, value in found.items()}


def _sentencepiece(name: str, settings: Settings) -> dict[str, Any]:
    proto = _proto(name, settings.files[name])
    kind, normalizer = settings.kind, proto.normalizer_spec
    if kind not in CLASSES or proto.trainer_spec.model_type != CLASSES[kind]:
        raise UnsupportedModel(f"a SentencePiece model of the class {kind[:40]!r} without {TOKENIZER}", tuple(CLASSES))
    if kind == "Llama" and settings.tokenizer.get("legacy") is False:
        raise UnsupportedModel(f"a Llama tokenizer that is not legacy, without {TOKENIZER}", ("legacy",))
    tokens = [piece.piece for piece in proto.pieces]
    found: dict[str, Any] = {
        "tokens": tokens,
        "scores": [piece.score for piece in proto.pieces],
        "token_type": [piece.type for piece in proto.pieces],
        "add_space_prefix": normalizer.add_dummy_prefix,
    }
    if kind == "XLMRoberta":
        _as_xlm_roberta(found)
        charsmap = list(normalizer.precompiled_charsmap)
        found |= {"precompiled_charsmap": charsmap, "remove_extra_whitespaces": normalizer.remove_extra_whitespaces}
        found |= {"model": "t5", "bos_token_id": 0, "eos_token_id": 2, "seperator_token_id": 2, "unknown_token_id": 3}
        found |= {"add_bos_token": True, "add_eos_token": True, "add_sep_token": True}
        return found
    _add_tokens(found, settings)
    for role in ("bos", "eos"):
        text = settings.token(f"{role}_token")
        if text in found["tokens"]:
            found[f"{role}_token_id"] = found["tokens"].index(text)
        found[f"add_{role}_token"] = settings.flag(f"add_{role}_token", role == "bos")
    return found | {"model": "llama"}


def _proto(name: str, path: Path) -> Any:
    try:
        described = importlib.import_module("sentencepiece.sentencepiece_model_pb2")
    except ImportError as error:
        raise UnsupportedModel(
            f"{name} without {TOKENIZER}, where the packages sentencepiece and protobuf are not installed,",
            ("edge-appliance[convert]", TOKENIZER),
        ) from error
    proto = described.ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except Exception as error:  # protobuf raises an exception of its own
        raise ModelFileError(f"{name} is damaged: {error}") from error
    return proto


def _as_xlm_roberta(found: dict[str, Any]) -> None:
    """XLM-R's layout, which is fairseq's: four control tokens, the pieces from the fourth on, a mask."""
    found["tokens"] = ["<s>", "<pad>", "</s>", "<unk>", *found["tokens"][3:], "<mask>"]
    found["scores"] = [0.0] * 4 + found["scores"][3:] + [0.0]
    found["token_type"] = [CONTROL, CONTROL, CONTROL, UNKNOWN, *found["token_type"][3:], CONTROL]


def _add_tokens(found: dict[str, Any], settings: Settings) -> None:
    """Put tokens that came after the model was trained at their places; those in between are filler."""
    added = {index: (token.content, token.special) for index, token in settings.added().items()}
    if "added_tokens.json" in settings.files:
        for text, index in read_object(settings.files, "added_tokens.json").items():
            if type(index) is not int or index < 0:
                raise ModelFileError(f"added_tokens.json is damaged: {text[:40]!r} is {str(index)[:40]}")
            added.setdefault(index, (text, False))
    for index, (text, special) in sorted(added.items()):
        for place in range(len(found["tokens"]), index + 1):
            found["tokens"].append(f"[PAD{place}]")
            found["scores"].append(-1000.0)
            found["token_type"].append(UNUSED)
        found["tokens"][index] = text
        if found["token_type"][index] != UNKNOWN:
            found["token_type"][index] = CONTROL if special else USER_DEFINED


def _bert(settings: Settings) -> dict[str, Any]:
    if settings.kind not in LIKE_BERT | {""}:
        raise UnsupportedModel(f"{VOCAB} of the class {settings.kind[:40]!r} without {TOKENIZER}", tuple(LIKE_BERT))
    if not settings.flag("tokenize_chinese_chars", True):
        raise UnsupportedModel("tokenize_chinese_chars: false in tokenizer_config.json", ("true",))
    try:
        text = settings.files[VOCAB].read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ModelFileError(f"{VOCAB} is damaged: not UTF-8") from error
    words = text.removesuffix("\n").split("\n")
    roles = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    pad, unk, cls, sep, mask = (
        settings.token(role) or usual for role, usual in zip(roles, SPECIAL_OF_BERT, strict=True)
    )
    if missing := {unk, cls, sep} - set(words):
        raise ModelFileError(f"{VOCAB} lacks {min(missing)}")
    special = {pad, unk, cls, sep, mask}
    found: dict[str, Any] = {
        "model": "bert",
        "tokens": [word if word in special else _phantom(word) for word in words],
        "token_type": [CONTROL if word in special else NORMAL for word in words],
        "token_type_count": settings.model.get("type_vocab_size", 2),
        "normalizer.lowercase": settings.flag("do_lower_case", True),
    }
    ids = {"bos": cls, "seperator": sep, "unknown": unk}
    found |= {f"{name}_token_id": words.index(text) for name, text in ids.items()}
    if (accents := settings.tokenizer.get("strip_accents")) is not None:
        found["normalizer.strip_accents"] = bool(accents)
    return found


def _phantom(word: str) -> str:
    return word[len(INSIDE) :] if word.startswith(INSIDE) else SPACE + word
