"""Thoughts between the tags that a Go template has around `.Thinking` (case 93)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.prompt.gotemplate import GoTemplate
from appliance.prompt.parsers.base import Expected, Parsed
from appliance.prompt.parsers.spans import Tags
from appliance.prompt.parsers.thinking import ThinkingParser, thinking_tags
from tests.prompt.parsers.transcripts import read, read_everywhere_cut

TAGS = Tags("<think>", "</think>")
TEMPLATE = (
    "{{ range $i, $_ := .Messages }}<|im_start|>{{ .Role }}\n"
    "{{ if and $.IsThinkSet .Thinking }}<think>\n{{ .Thinking }}\n</think>\n\n{{ end }}{{ .Content }}<|im_end|>\n"
    "{{ end }}<|im_start|>assistant\n{{ if not .Think }}<think>\n\n</think>\n\n{{ end }}"
)


def parser(prompt: str = "") -> ThinkingParser:
    return ThinkingParser(TAGS, Expected(think=True, prompt=prompt))


@pytest.mark.spec(93)
@pytest.mark.parametrize(
    ("output", "wanted"),
    [
        ("<think>Hm.</think>42", Parsed("42", "Hm.")),
        ("  \n<think>\n  Hm.\n </think>\n\n 42 ", Parsed("42 ", "Hm.\n ")),  # only the space behind a tag is dropped
        ("<think></think>42", Parsed("42")),
        ("<think>Hm.", Parsed(thinking="Hm.")),
        ("<think>a</b></thin", Parsed(thinking="a</b></thin")),
        ("<think>a</think>\n", Parsed(thinking="a")),
        ("<think>a</think>b<think>c</think>", Parsed("b<think>c</think>", "a")),
        ("42", Parsed("42")),
        ("  42 <think>Hm.</think>", Parsed("  42 <think>Hm.</think>")),
        ("<thought>Hm.</think>", Parsed("<thought>Hm.</think>")),
        ("  <thi", Parsed("  <thi")),
        ("", Parsed()),
    ],
)
def test_thoughts(output: str, wanted: Parsed) -> None:
    assert read_everywhere_cut(parser, output) == wanted


@pytest.mark.spec(48)
def test_prompt_that_opens_the_thoughts() -> None:
    inside = lambda: parser("<|im_start|>assistant\n<think>\n")  # noqa: E731
    assert read_everywhere_cut(inside, "\nHm.</think>\n42") == Parsed("42", "Hm.")


def test_what_precedes_the_answer() -> None:
    output = "<think>\nHm.\n</think>\n\n42 is"
    first = parser()
    read(first, [output])
    assert first.opening(output) == output[: output.index("42")]
    open_still = parser()
    open_still.feed("<think>\nHm. ")
    assert open_still.opening("<think>\nHm. ") == "<think>\nHm.\n</think>\n\n"
    assert parser("<think>").opening("") == "\n</think>\n\n"
    assert parser().opening("") == ""


def tags(template: str) -> Tags | None:
    return thinking_tags(GoTemplate(template))


def test_tags_of_a_template() -> None:
    assert tags(TEMPLATE) == TAGS
    other = TEMPLATE.replace("<think>", "[THINK]").replace("</think>", "[/THINK]")
    assert tags(other) == Tags("[THINK]", "[/THINK]")
    defined = '{{ define "m" }}{{ range .Messages }}{{ with .Thinking }}{{ . }}{{ end }}{{ end }}{{ end }}{{ .Prompt }}'
    assert tags(defined) is None
    assert tags("{{ .Thinking }}{{ range .Messages }}{{ .Content }}{{ end }}") is None
    assert tags("{{ range .Messages }}{{ if .Thinking }}{{ .Thinking }}</think>{{ end }}{{ end }}") is None


PIECES = st.one_of(st.sampled_from(["<think>", "</think>", " ", "\n", "<", "</"]), st.text(max_size=5))


@settings(max_examples=200, deadline=None)
@given(st.lists(PIECES, max_size=10), st.sampled_from(["", "<think>"]))
def test_whatever_the_model_writes(pieces: list[str], prompt: str) -> None:
    text = "".join(pieces)
    whole = read_everywhere_cut(lambda: parser(prompt), text)
    assert isinstance(whole, Parsed)
    kept = "".join((whole.thinking + whole.text).split())
    lost = "".join(text.split()).replace("<think>", "").replace("</think>", "")
    assert kept.replace("<think>", "").replace("</think>", "") == lost
