"""What a model can do, read from its metadata and the text of its templates.

The rules are Ollama's: a search for tell-tale words, not an analysis, so that clients see the same list.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from appliance.families import PARSERS

RANK = 4  # llama.cpp, enum llama_pooling_type: a score instead of a vector

_TOOL_RESULTS_JINJA = re.compile(
    r"""tool_response|tool_results|ipython|role['"]\] == ['"]tool['"]|message\.role == ['"]tool['"]"""
)
_TOOL_RESULTS_GO = re.compile(r'eq \.Role "tool"|tool_response|TOOL_RESULTS')
_SPLIT_AT_THINK = re.compile(r"""content\.split\((['"])</think>\1\)""")
_THOUGHTS = (  # Ollama looks for the first alone, as the others are of models whose parsers it knows by name
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<|channel>", "<channel|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel|>analysis", "<|message|>"),
)
_GO_ACTION = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_GO_TEXT = re.compile(r"""/\*.*?\*/|"(?:\\.|[^"\\])*"|`[^`]*`""", re.DOTALL)
_GO_FIELD = re.compile(r"\.([A-Za-z_]\w*)")


def capabilities(
    metadata: Mapping[str, Any],
    go_template: str,
    declared: Iterable[str] = (),
    layers: Iterable[str] = (),
    parser: str = "",
    *,
    forced: bool | None = None,
) -> tuple[str, ...]:
    """A model's capabilities, in Ollama's order, from its GGUF `metadata` (empty if it has no GGUF), its
    TEMPLATE layer ("" if it has none), what its config declares, the kinds of its layers, and its built-in parser.
    """
    jinja = chat_template(metadata)
    native = not uses_go_template(go_template, jinja, forced)
    found = list(declared)
    if native:
        found += of_jinja(jinja)
    if metadata:
        found += of_metadata(metadata)
    if "projector" in layers:
        found.append("vision")
    if not native:
        found += of_go_template(go_template)
    found += PARSERS.get(parser, ())
    if metadata.get("general.architecture") in ("gptoss", "gpt-oss"):
        found.append("thinking")
    return tuple(dict.fromkeys(found))


def chat_template(metadata: Mapping[str, Any]) -> str:
    """The Jinja template of a GGUF, "" if it has none."""
    template = metadata.get("tokenizer.chat_template")
    return template if isinstance(template, str) else ""


def of_metadata(metadata: Mapping[str, Any]) -> list[str]:
    """What the shape of the network tells."""
    architecture = metadata.get("general.architecture", "")
    pooling = f"{architecture}.pooling_type"
    found = ["completion"]
    if pooling in metadata:
        found = ["rerank" if metadata[pooling] == RANK else "embedding"]
    return found + [kind for kind in ("vision", "audio") if f"{architecture}.{kind}.block_count" in metadata]


def of_jinja(template: str) -> list[str]:
    """What a GGUF's chat template tells: `tools`, `thinking`."""
    found = ["tools"] if "tools" in template or "tool_call" in template else []
    marked = any(opening in template and closing in template for opening, closing in _THOUGHTS)
    # Some templates only strip earlier reasoning; these two marks are of ones that never produce any.
    split = _SPLIT_AT_THINK.search(template) and not re.search("reasoning_content|<SPECIAL_12>", template)
    return [*found, "thinking"] if marked or split else found


def of_go_template(template: str) -> list[str]:
    """What the fields that a Go template uses tell: `tools`, `insert`, `thinking`."""
    fields = _go_fields(template)
    told = (("tools", "tools"), ("suffix", "insert"), ("thinking", "thinking"))
    return [capability for field, capability in told if field in fields]


def shows_messages(go_template: str) -> bool:
    """Whether a Go template writes a whole conversation."""
    return "messages" in _go_fields(go_template)


def _go_fields(template: str) -> set[str]:
    code = (_GO_TEXT.sub(" ", action) for action in _GO_ACTION.findall(template))
    return {field.lower() for action in code for field in _GO_FIELD.findall(action)}


def uses_go_template(go_template: str, jinja: str, forced: bool | None = None) -> bool:
    """Whether the TEMPLATE layer builds the prompt, rather than the GGUF's own chat template.

    It does unless the chat template can do more, or can as much and alone renders the results of tools; `forced`
    decides instead.
    """
    if forced is not None:
        return forced and bool(go_template)
    if not go_template or not jinja:
        return bool(go_template)
    go, native = set(of_go_template(go_template)), set(of_jinja(jinja))
    go_returns = {"tools", "toolcalls"} <= _go_fields(go_template) and _TOOL_RESULTS_GO.search(go_template)
    calls = "tool_calls" in jinja or "assistant_tool_call" in jinja
    jinja_returns = "tools" in native and calls and _TOOL_RESULTS_JINJA.search(jinja)
    if len(native) > len(go):
        return bool(go_returns and not jinja_returns)
    return not (native == go and "tools" in native and jinja_returns and not go_returns)
