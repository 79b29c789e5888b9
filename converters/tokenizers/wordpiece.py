"""BERT's WordPiece: words cut at spaces and punctuation, and each taken apart from its left by the longest match."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from appliance.errors import NotGGUF
from converters.tokenizers.bpe import SPACE
from converters.tokenizers.entries import CONTROL, UNKNOWN, Entries, refuse_twice
from converters.tokenizers.special import Frame

INSIDE = "##"
LONGEST_WORD = 100  # BERT's own limit; a longer word is unknown
CLS, UNK, SEP = 101, 100, 102  # BERT's own numbers, for files that do not say


def wordpiece(entries: Entries) -> Tokenizer:
    """The tokenizer of a vocabulary in GGUF's spelling: ▁ in front of what begins a word, nothing elsewhere."""
    spelled = [
        token if kind in (CONTROL, UNKNOWN) else token[1:] if token.startswith(SPACE) else INSIDE + token
        for token, kind in zip(entries.tokens, entries.types, strict=True)
    ]
    refuse_twice(spelled)
    unknown = entries.token_id("unknown", UNK)
    if unknown is None:
        raise NotGGUF("a damaged model: tokenizer.ggml.unknown_token_id is missing")
    model = models.WordPiece(
        {token: index for index, token in enumerate(spelled)},
        unk_token=spelled[unknown],
        continuing_subword_prefix=INSIDE,
        max_input_chars_per_word=LONGEST_WORD,
    )
    lowercase = entries.flag("normalizer.lowercase", True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=True,
        strip_accents=entries.flag("normalizer.strip_accents", lowercase),
        lowercase=lowercase,
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(INSIDE)
    return tokenizer


def frame(entries: Entries) -> Frame:
    """[CLS] text [SEP], whatever the file says of adding tokens: llama.cpp's rule."""
    cls, sep = entries.token_id("bos", entries.token_id("cls", CLS)), entries.token_id("seperator", SEP)
    if cls is None or sep is None:
        raise NotGGUF("a damaged model: the ids of [CLS] and [SEP] are missing")
    types = entries.metadata.get("tokenizer.ggml.token_type_count", 2)
    return Frame((cls,), (sep,), (sep,), second_type=1 if types != 1 else 0)
