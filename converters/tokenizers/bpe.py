"""Byte pair encoding: over bytes, as GPT-2 does, and over characters with ▁ for spaces, as SentencePiece does."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from appliance.errors import NotGGUF, UnsupportedModel
from converters.tokenizers.entries import UNKNOWN, Entries, required
from converters.tokenizers.pretokenizers import PRE_TOKENIZERS, PreTokenizer

SPACE = "▁"


def pre_tokenizer(metadata: Mapping[str, Any]) -> PreTokenizer:
    """The one the metadata names; raises UnsupportedModel for names that are not known."""
    name = metadata.get("tokenizer.ggml.pre", "default")  # files older than the key; llama.cpp does the same
    if metadata["tokenizer.ggml.model"] == "gemma4":
        name = "gemma4"
    if not isinstance(name, str) or name not in PRE_TOKENIZERS:
        raise UnsupportedModel(f"pre-tokenizer {str(name)[:40]!r}", tuple(sorted(PRE_TOKENIZERS)))
    return PRE_TOKENIZERS[name]


def byte_level(entries: Entries, cut: PreTokenizer) -> Tokenizer:
    """The tokenizer of a vocabulary with merges of its own."""
    merges = [_pair(merge) for merge in required(entries.metadata, "merges")]
    if cut.spaces:
        return _with_spaces(_bpe(entries.vocabulary(), merges, byte_fallback=True, fuse_unk=True), prefix=False)
    tokenizer = Tokenizer(_bpe(entries.vocabulary(), merges, ignore_merges=cut.whole_words))
    if cut.nfc:
        tokenizer.normalizer = normalizers.NFC()
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in cut.patterns]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def sentencepiece(entries: Entries) -> Tokenizer:
    """The tokenizer of a vocabulary whose merges follow from its scores.

    In the form of transformers' convert_slow_tokenizer.py, so that it equals the model's original fast tokenizer.
    """
    unknown = next((entries.tokens[index] for index in entries.of_type(UNKNOWN)), None)
    merges = merges_by_score(entries.tokens, entries.scores())
    model = _bpe(entries.vocabulary(), merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    return _with_spaces(model, entries.flag("add_space_prefix", True))


def _with_spaces(model: models.BPE, prefix: bool) -> Tokenizer:
    """With ▁ for spaces, and if `prefix` one in front of the text."""
    tokenizer = Tokenizer(model)
    spaces = [normalizers.Replace(" ", SPACE)]
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), *spaces] if prefix else spaces)
    back = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*back, decoders.Strip(" ", 1, 0)] if prefix else back)
    return tokenizer


def merges_by_score(tokens: Sequence[str], scores: Sequence[float]) -> list[tuple[str, str]]:
    """All pairs of tokens that join to a token, best score of the joined token first.

    Among equal scores the order is that of transformers' `generate_merges`: longer halves first, then by number.
    """
    ids = {token: index for index, token in enumerate(tokens)}
    joined, left, right = array("q"), array("q"), array("q")  # a quarter of a million tokens have twice as many pairs
    for index, token in enumerate(tokens):
        for cut in range(1, len(token)):
            first, second = ids.get(token[:cut]), ids.get(token[cut:])
            if first is not None and second is not None:
                joined.append(index)
                left.append(first)
                right.append(second)
    whole, first_half, second_half = (np.frombuffer(column, np.int64) for column in (joined, left, right))
    lengths = np.array([len(token) for token in tokens], np.int64)
    score = np.array(scores, np.float64)[whole]
    by = (second_half, first_half, whole, -lengths[second_half], -lengths[first_half], -score)  # the last one first
    return [(tokens[left[at]], tokens[right[at]]) for at in np.lexsort(by).tolist()]


def _bpe(vocab: dict[str, int], merges: list[tuple[str, str]], **options: Any) -> models.BPE:
    try:
        return models.BPE(vocab=vocab, merges=merges, **options)
    except Exception as error:  # the library raises nothing more precise
        raise NotGGUF(f"a damaged model: the tokenizer's merges: {error}") from error


def _pair(merge: Any) -> tuple[str, str]:
    """The halves of "left right". The first half may begin with a space, as in vocabularies with real spaces."""
    at = merge.find(" ", 1) if isinstance(merge, str) else 0
    if at < 1 or at + 1 == len(merge) or " " in merge[at + 1 :]:
        raise NotGGUF(f"a damaged model: the merge {str(merge)[:40]!r} in tokenizer.ggml.merges")
    return merge[:at], merge[at + 1 :]
