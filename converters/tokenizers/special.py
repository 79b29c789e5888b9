"""Special tokens: which are found in a text, which end a reply, which a model wants around a text."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tokenizers import AddedToken, processors

from appliance.errors import NotGGUF
from converters.tokenizers.entries import CONTROL, UNKNOWN, USER_DEFINED, Entries, values

# Control tokens that end a reply whatever the file's eos is (llama.cpp keeps the same list).
END_OF_GENERATION = frozenset(
    {
        "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>",
        "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>",
        "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~[",
    }
)  # fmt: skip
# Phi-3's control tokens take the whitespace behind them away, except these; files do not carry the attribute.
KEEP_WHITESPACE = frozenset({"<unk>", "<s>", "<|endoftext|>"})


@dataclass(frozen=True, slots=True)
class Frame:
    """The ids that a model wants around a text, and around and between the two texts of a pair.

    A text is `before` text `after`, a pair `before` text `between` text `after`; the second text and what follows it
    have the type `second_type`.
    """

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    between: tuple[int, ...] = ()
    second_type: int = 0

    def post_processor(self, tokens: Mapping[int, str] | Sequence[str]) -> processors.PostProcessor | None:
        """As tokenizer.json says it; None where nothing is wanted."""
        parts = {"before": self.before, "between": self.between, "after": self.after}
        if not any(parts.values()):
            return None
        # named by their place, since a token's own text may hold the colon that separates a type
        names = [
            {"id": name, "ids": list(ids), "tokens": [tokens[index] for index in ids]}
            for name, ids in parts.items()
            if ids
        ]
        kind = self.second_type
        single = [*(["before"] if self.before else []), "$A", *(["after"] if self.after else [])]
        pair = [*(["before"] if self.before else []), "$A", *(["between"] if self.between else [])]
        pair += [f"$B:{kind}", *([f"after:{kind}"] if self.after else [])]
        return processors.TemplateProcessing(single=single, pair=pair, special_tokens=names)


def read_frame(entries: Entries, bos: int | None, eos: int | None, add_bos: bool, add_eos: bool, sep: bool) -> Frame:
    """The frame of vocabularies whose files have add_bos, add_eos and add_sep; the arguments are the defaults."""
    before = (bos,) if entries.flag("add_bos_token", add_bos) and bos is not None else ()
    after = _wanted("eos", eos) if entries.flag("add_eos_token", add_eos) else ()
    between = _wanted("sep", entries.token_id("seperator")) if entries.flag("add_sep_token", sep) else ()
    return Frame(before, after, after + between)


def _wanted(name: str, token: int | None) -> tuple[int, ...]:
    if token is None:
        raise NotGGUF(f"a damaged model: tokenizer.ggml.add_{name}_token is true, but there is no such token")
    return (token,)


def added_tokens(entries: Entries) -> Iterator[AddedToken]:
    """Tokens that are found in the text before anything else is done to it.

    Whether they take the whitespace beside them away is known from names, as in llama.cpp: files don't say.
    """
    pre = str(entries.metadata.get("tokenizer.ggml.pre"))
    name = str(entries.metadata.get("general.name")).lower()
    architecture = str(entries.metadata.get("general.architecture"))
    left, right = set[str](), set[str]()
    if pre.startswith(("jina-v2-de", "jina-v2-es", "jina-v2-code")) or architecture in (
        "nomic-bert-moe",
        "jina-bert-v3",
    ):
        left = {"<mask>"}
    elif "phi-3" in name or "phi3" in name:
        right = set(entries.tokens) - KEEP_WHITESPACE
    elif "modern-bert" in name:
        left = {"[MASK]"}
    for token, kind in zip(entries.tokens, entries.types, strict=True):
        if kind in (CONTROL, UNKNOWN, USER_DEFINED):
            special = kind != USER_DEFINED
            yield AddedToken(token, special=special, normalized=False, lstrip=token in left, rstrip=token in right)


def end_tokens(entries: Entries, eos: int | None) -> tuple[int, ...]:
    """Every token that ends a reply: those the file names first, then those known by their text."""
    named = [eos, entries.token_id("eot"), entries.token_id("eom"), *(values(entries.metadata, "eos_token_ids") or [])]
    for token in named:
        if token is not None and (type(token) is not int or not 0 <= token < entries.size):
            raise NotGGUF(f"a damaged model: tokenizer.ggml.eos_token_ids has {str(token)[:40]}")
    controls = {entries.tokens[index]: index for index in entries.of_type(CONTROL)}
    return ordered(named, (controls[text] for text in ends_by_text(controls)))


def ordered(named: Iterable[int | None], known: Iterable[int]) -> tuple[int, ...]:
    """All ids once: those named first, in their order, then the known ones by number."""
    return tuple(dict.fromkeys([index for index in named if index is not None] + sorted(known)))


def ends_by_text(controls: Collection[str]) -> set[str]:
    """Those of a vocabulary's control tokens that are known to end a reply."""
    known = END_OF_GENERATION.intersection(controls)
    if known >= {"<|return|>", "<|call|>"} or known >= {"<|calls|>", "<|flush|>"}:
        known -= {"<|end|>"}  # there it ends a message, not the reply
    return set(known)
