"""The tokenizer of a Hugging Face folder: tokenizer.json as it is, or what older folders have in its place.

What transformers' classes change of a tokenizer.json from tokenizer_config.json is done here too, so that tokens are
those of `AutoTokenizer`. Folders without one are read by way of GGUF's metadata: see older_folders.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers

from appliance.errors import ModelFileError
from appliance.store.hugging_face import MAX_JSON_BYTES, Files, read_object
from converters.tokenizers.special import Frame, ends_by_text, ordered

TOKENIZER = "tokenizer.json"
ADDS_BOS = {"Llama": True, "CodeLlama": True, "Gemma": True, "Cohere": True, "GPTNeoX": False}
"""Classes that say themselves what is around a text, and whether BOS is where tokenizer_config.json is silent."""
LIKE_BERT = {"Bert", "DistilBert", "Electra", "MPNet", "MobileBert", "Splinter", "LayoutLM", "ConvBert", "SqueezeBert"}


class Settings:
    """The small files beside a tokenizer; every one of them may be missing."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self.tokenizer = self._read("tokenizer_config.json")
        self.special = self._read("special_tokens_map.json")
        self.model = self._read("config.json")
        self.generation = self._read("generation_config.json")

    def _read(self, name: str) -> dict[str, Any]:
        return read_object(self.files, name) if name in self.files else {}

    @property
    def kind(self) -> str:
        """The name of the tokenizer's class without what all have in common, such as "Llama"."""
        name = self.tokenizer.get("tokenizer_class")
        return name.removesuffix("Fast").removesuffix("Tokenizer") if isinstance(name, str) else ""

    def token(self, role: str) -> str | None:
        """How the token of a role ("bos_token") is spelled. tokenizer_config.json is asked first, and may say none."""
        for source in (self.tokenizer, self.special):
            if role in source:
                value = source[role]
                text = value.get("content") if isinstance(value, dict) else value
                if text is not None and not isinstance(text, str):
                    raise ModelFileError(f"tokenizer_config.json is damaged: {role} is {str(value)[:40]}")
                return text
        return None

    def flag(self, name: str, default: bool) -> bool:
        """A yes or no of tokenizer_config.json; null is what was not said."""
        value = self.tokenizer.get(name)
        return default if value is None else bool(value)

    def end_ids(self) -> list[int]:
        """The ids that generation ends with, as configurations give them."""
        found: list[int] = []
        for source in (self.generation, self.model, self.model.get("text_config") or {}):
            value = source.get("eos_token_id")
            found += [index for index in (value if isinstance(value, list) else [value]) if type(index) is int]
        return found

    def added(self) -> dict[int, AddedToken]:
        """Tokens that are added to the vocabulary, by their ids."""
        entries = self.tokenizer.get("added_tokens_decoder") or {}
        try:
            return {int(index): _added_token(entry) for index, entry in entries.items()}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ModelFileError(f"tokenizer_config.json is damaged: added_tokens_decoder: {error}") from error


def read_tokenizer(files: Files, settings: Settings, vocab_size: int) -> Tokenizer:
    """The folder's tokenizer.json, without the lengths it may bring, with the tokens and changes of its settings.

    Tokens beyond the model's `vocab_size` are left out when they were added (Gemma 3's stand-in for images, in a text
    model); raises ModelFileError for others, and for a file that is damaged.
    """
    tokenizer = open_tokenizer(files)
    added = {index: token for index, token in settings.added().items() if index < vocab_size}
    if any(index >= vocab_size for index in tokenizer.get_added_tokens_decoder()):
        tokenizer = _without(tokenizer, vocab_size)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.add_tokens([token for _, token in sorted(added.items())])
    for index, token in added.items():
        if tokenizer.token_to_id(token.content) != index:
            raise ModelFileError(f"the token {token.content[:40]!r} has another id in {TOKENIZER} than {index}")
    if (last := max(tokenizer.get_vocab().values(), default=0)) >= vocab_size:
        raise ModelFileError(f"{TOKENIZER} has a token {last:,}, the model's vocabulary ends at {vocab_size - 1:,}")
    _apply(tokenizer, settings)
    return tokenizer


def open_tokenizer(files: Files) -> Tokenizer:
    """The folder's tokenizer.json and nothing else; raises ModelFileError when it is damaged or too large."""
    if (size := files[TOKENIZER].stat().st_size) > MAX_JSON_BYTES:
        raise ModelFileError(f"{TOKENIZER} has {size:,} bytes, at most {MAX_JSON_BYTES:,} are read")
    return _from_bytes(files[TOKENIZER].read_bytes())


def frame_of(tokenizer: Tokenizer) -> Frame:
    """What the tokenizer's post-processor puts around a text, found out by asking it."""
    probe = next(
        (text for text in ("a", "0", "the", "一") if tokenizer.encode(text, add_special_tokens=False).ids), None
    )
    if probe is None:
        raise ModelFileError(f"{TOKENIZER} makes no token of any text")
    single, pair = tokenizer.encode(probe), tokenizer.encode(probe, probe)
    owners = single.sequence_ids
    first, last = owners.index(0), len(owners) - owners[::-1].index(0)
    of_pair = pair.sequence_ids
    gap = slice(len(of_pair) - of_pair[::-1].index(0), of_pair.index(1))
    second_type = pair.type_ids[of_pair.index(1)]
    return Frame(tuple(single.ids[:first]), tuple(single.ids[last:]), tuple(pair.ids[gap]), second_type)


def special_ids(
    tokenizer: Tokenizer, settings: Settings, frame: Frame, vocab_size: int
) -> tuple[int | None, tuple[int, ...]]:
    """BOS, and every token that ends a reply: the tokenizer's own first, which templates know as eos_token."""
    bos = _id(tokenizer, settings.token("bos_token"))
    if bos is None and "bos_token" not in settings.tokenizer and frame.before:
        bos = frame.before[0]
    named = [_id(tokenizer, settings.token("eos_token")), *settings.end_ids()]
    controls = {token.content: index for index, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    ends = ordered(named, (controls[text] for text in ends_by_text(controls)))
    return bos, tuple(index for index in ends if index < vocab_size)


def _from_bytes(data: bytes) -> Tokenizer:
    try:
        return Tokenizer.from_buffer(data)
    except Exception as error:  # the library raises plain Exception for whatever it cannot parse
        raise ModelFileError(f"{TOKENIZER} is damaged: {str(error)[:200]}") from error


def _without(tokenizer: Tokenizer, vocab_size: int) -> Tokenizer:
    described = json.loads(tokenizer.to_str())
    gone = {token["content"] for token in described["added_tokens"] if token["id"] >= vocab_size}
    described["added_tokens"] = [token for token in described["added_tokens"] if token["content"] not in gone]
    words = described["model"]["vocab"]
    if isinstance(words, dict):
        described["model"]["vocab"] = {word: index for word, index in words.items() if word not in gone}
    return _from_bytes(json.dumps(described).encode())


def _added_token(entry: Mapping[str, Any]) -> AddedToken:
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return AddedToken(entry["content"], **{name: entry[name] for name in flags if name in entry})


def _apply(tokenizer: Tokenizer, settings: Settings) -> None:
    """Change what transformers' classes change: BERT's normaliser, a space in front, what is around a text."""
    kind = settings.kind
    if kind in LIKE_BERT and isinstance(tokenizer.normalizer, normalizers.BertNormalizer):
        tokenizer.normalizer = normalizers.BertNormalizer(
            clean_text=tokenizer.normalizer.clean_text,
            handle_chinese_chars=settings.flag("tokenize_chinese_chars", True),
            strip_accents=settings.tokenizer.get("strip_accents"),
            lowercase=settings.flag("do_lower_case", True),
        )
    cut = tokenizer.pre_tokenizer
    if settings.tokenizer and isinstance(cut, pre_tokenizers.ByteLevel):
        cut.add_prefix_space = settings.flag("add_prefix_space", False)
        tokenizer.pre_tokenizer = cut
    if kind in ADDS_BOS:
        frame = _frame_by_class(tokenizer, settings)
        names = {index: tokenizer.id_to_token(index) for index in (*frame.before, *frame.after)}
        tokenizer.post_processor = frame.post_processor(names)


def _frame_by_class(tokenizer: Tokenizer, settings: Settings) -> Frame:
    wanted = {
        "bos": settings.flag("add_bos_token", ADDS_BOS[settings.kind]),
        "eos": settings.flag("add_eos_token", False),
    }
    ids: dict[str, tuple[int, ...]] = {"bos": (), "eos": ()}
    for name in (name for name, yes in wanted.items() if yes):
        index = _id(tokenizer, settings.token(f"{name}_token"))
        if index is None:
            raise ModelFileError(f"tokenizer_config.json wants add_{name}_token, but there is no {name}_token")
        ids[name] = (index,)
    return Frame(ids["bos"], ids["eos"], ids["eos"] + ids["bos"], second_type=1)


def _id(tokenizer: Tokenizer, text: str | None) -> int | None:
    return None if text is None else tokenizer.token_to_id(text)
