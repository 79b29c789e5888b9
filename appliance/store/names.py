"""Model names: `[scheme://][host/][namespace/]model[:tag]`, and the suffixes that say where a model lives.

Only letters, digits and a few marks are allowed and a part never starts with a dot, so the four parts of a
valid name are four safe folder names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from appliance.errors import InvalidName

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"
HUB_HOSTS = frozenset({"hf.co", "huggingface.co"})

_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}")
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
_MODEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")


@dataclass(frozen=True, slots=True)
class ModelName:
    """A complete name; raises InvalidName when a part breaks the grammar."""

    host: str
    namespace: str
    model: str
    tag: str

    def __post_init__(self) -> None:
        rules = (_HOST, _NAMESPACE, _MODEL, _MODEL)
        if not all(rule.fullmatch(part) for rule, part in zip(rules, self.parts, strict=True)):
            raise InvalidName("invalid model name")

    @property
    def parts(self) -> tuple[str, ...]:
        """Host, namespace, model and tag: the path of its manifest."""
        return self.host, self.namespace, self.model, self.tag

    @property
    def short(self) -> str:
        """What people read: the defaults left out, the tag always there."""
        if self.host != DEFAULT_HOST:
            return self.full
        prefix = "" if self.namespace == DEFAULT_NAMESPACE else f"{self.namespace}/"
        return f"{prefix}{self.model}:{self.tag}"

    @property
    def full(self) -> str:
        """All four parts."""
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"


def on_hub(reference: str) -> bool:
    """Whether a reference names a model of the Hugging Face Hub."""
    try:
        return parse_reference(reference).host.lower() in HUB_HOSTS
    except InvalidName:
        return False


def parse_name(text: str) -> ModelName:
    """Read a name and fill in the defaults; raises InvalidName."""
    host, namespace, tag = DEFAULT_HOST, DEFAULT_NAMESPACE, DEFAULT_TAG
    rest = text
    if rest.rfind(":") > rest.rfind("/"):
        rest, _, tag = rest.rpartition(":")
    rest, slash, model = rest.rpartition("/")
    if slash:
        rest, slash, namespace = rest.rpartition("/")
    if slash:
        scheme, marker, after = rest.partition("://")
        host = after if marker else scheme
    return ModelName(host, namespace, model, tag)


def fold(name: ModelName, installed: Iterable[ModelName]) -> ModelName:
    """Give each part of `name` the spelling that an installed name has for it, whatever the case.

    A spelling that is installed exactly as given is kept, so two names that differ only in case both
    stay reachable.
    """
    known = list(installed)
    if name in known:
        return name
    columns = zip(*(other.parts for other in known), strict=True) if known else [()] * 4
    return ModelName(*(_spelling(part, column) for part, column in zip(name.parts, columns, strict=True)))


def _spelling(part: str, installed: Iterable[str]) -> str:
    spellings = sorted(other for other in set(installed) if other.lower() == part.lower())
    return part if part in spellings or not spellings else spellings[0]


class Source(StrEnum):
    """Where a reference says its model lives."""

    LOCAL = "local"
    CLOUD = "cloud"


def split_source(text: str) -> tuple[str, Source | None]:
    """Split `x:local`, `x:cloud` and `x:8b-cloud` into the name and its source.

    Raises InvalidName for a blank reference and for one with two suffixes.
    """
    text = text.strip()
    if not text:
        raise InvalidName("model is required")
    base, source = _cut_source(text)
    if source and _cut_source(base)[1]:
        raise InvalidName(f'use either :local or :cloud, not both: "{text}"')
    return base, source


def _cut_source(text: str) -> tuple[str, Source | None]:
    base, colon, suffix = text.rpartition(":")
    word = suffix.strip().lower()
    if not colon:
        return text, None
    if word in ("local", "cloud"):
        return base, Source(word)
    if word.endswith("-cloud") and "/" not in suffix:
        return f"{base}:{suffix.strip()[: -len('-cloud')]}", Source.CLOUD
    return text, None


def is_cloud(text: str) -> bool:
    """Whether a reference names a cloud model in so many words."""
    try:
        return split_source(text)[1] is Source.CLOUD
    except InvalidName:
        return False


def parse_reference(text: str) -> ModelName:
    """Read a name that may carry a source suffix; a cloud reference gives the name of its local stub."""
    base, source = split_source(text)
    if source is not Source.CLOUD:
        return parse_name(base)
    tagged = base.rfind(":") > base.rfind("/")
    return parse_name(f"{base}-cloud" if tagged else f"{base}:cloud")
