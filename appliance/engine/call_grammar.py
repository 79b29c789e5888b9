"""The grammar of a tool call, made of what a template writes and of the schemas of arguments."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import llguidance

from appliance.engine.constrain import closed
from appliance.errors import first_line
from appliance.prompt.parsers.markup import ID, NAME
from appliance.prompt.parsers.shape import CallShape

log = logging.getLogger(__name__)

BLANK = r"[ \n\t]{0,20}"  # bounded, since small models can go on with white space for ever
ID_CHARACTERS = "[A-Za-z0-9_-]{1,64}"
STYLE: Any = {"whitespace_flexible": True, "whitespace_pattern": BLANK, "lenient": False}
ANY_OBJECT = {"type": "object"}


def call_grammar(shape: CallShape, functions: Mapping[str, Any], control: Mapping[int, str]) -> str:
    """The grammar (llguidance's Lark) of a call of one of `functions`, names with schemas of arguments.

    A schema with a keyword that cannot be enforced allows any object, and the log names it. `control` are the tokens
    that stand for parts of the shape.
    """
    terms = _Terms(control)
    named = terms.lark(shape.before + NAME + shape.between, spaced=shape.in_object)
    after = f" BLANK {terms.lark(shape.after, spaced=True)}" if shape.after else ""
    calls = " | ".join(f"call_{at}" for at in range(len(functions)))
    lead = f"({terms.lark(shape.lead, spaced=True)} BLANK)? " if shape.lead.strip() else ""
    rules = [f"start: BLANK {lead}({calls})"]
    for at, (name, schema) in enumerate(functions.items()):
        spelled = json.dumps(quoted(name) if shape.in_object else name, ensure_ascii=False)[1:-1]
        rules.append(f"call_{at}: {named.replace(NAME, spelled)} BLANK arguments_{at}{after}")
        rules.append(f"arguments_{at}: %json {json.dumps(_enforceable(name, schema) | {'x-guidance': STYLE})}")
    return "\n".join([*rules, f"BLANK: /{BLANK}/", f"ID: /{ID_CHARACTERS}/"])


def named_object(shape: CallShape, names: Iterable[str]) -> re.Pattern[str]:
    """What an object begins with that names one of the tools, up to the quote behind the name."""
    parts, inside = [], False
    for term in _Terms({}).split(shape.before):
        if not term.isspace() or inside:
            parts.append(ID_CHARACTERS if term == ID else re.escape(term))
        inside ^= term == '"'
        if not inside:
            parts.append(r"\s*")
    spelled = "|".join(re.escape(quoted(name)) for name in names)
    return re.compile("".join(parts) + f"(?:{spelled})" + ('"' if inside else ""))


def quoted(name: str) -> str:
    """A name as it stands between JSON's quotes."""
    return json.dumps(name, ensure_ascii=False)[1:-1]


def _enforceable(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    wanted: dict[str, Any] = closed(ANY_OBJECT | dict(schema))
    grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(wanted), overrides=STYLE)
    if refusal := llguidance.LLMatcher.validate_grammar(grammar):
        log.warning("the arguments of the tool %r are not held to its schema: %s", name, first_line(refusal))
        return dict(ANY_OBJECT)
    return wanted


class _Terms:
    """Splits a template's text into what a grammar is made of."""

    def __init__(self, control: Mapping[int, str]) -> None:
        self._tokens = {spelling: token for token, spelling in control.items()}
        special = "|".join([*sorted(map(re.escape, self._tokens), key=len, reverse=True), ID])
        self._term = re.compile(rf"{special}|\s+|[{{}}\[\],:\"]|(?:(?!{special})[^\s{{}}\[\],:\"])+")

    def split(self, text: str) -> Iterator[str]:
        return (match[0] for match in self._term.finditer(text))

    def lark(self, text: str, *, spaced: bool) -> str:
        """The terms in a row; `spaced`: with white space where JSON allows it, instead of where `text` has it."""
        terms: list[str] = []
        inside = False
        for term in self.split(text):
            blank = term.isspace() and not inside
            if blank and not spaced:
                terms.append("BLANK")
            elif not blank:
                between = spaced and terms and not (inside and terms[-1] != "BLANK")
                terms += ["BLANK", self._spelled(term)] if between else [self._spelled(term)]
            inside ^= term == '"'
        return " ".join(terms)

    def _spelled(self, term: str) -> str:
        if term in self._tokens:
            return f"<[{self._tokens[term]}]>"
        return "ID" if term == ID else json.dumps(term, ensure_ascii=False)
