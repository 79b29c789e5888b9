"""Golden transcripts of the parsers that are put together from a template's own markup, whole and cut everywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.core import Think
from appliance.prompt.chat import GoPrompt, JinjaPrompt
from appliance.prompt.gotemplate import GoTemplate
from appliance.prompt.jinja import JinjaTemplate
from appliance.prompt.parsers import output_parser
from appliance.prompt.parsers.base import Expected, Parsed
from tests.prompt.parsers.transcripts import call, read_everywhere_cut

TEMPLATES = Path(__file__).parent.parent / "templates"
OSLO, PARAMETERS = call("weather", city="Oslo"), '{"name": "weather", "parameters": {"city": "Oslo"}}'
WEATHER = '{"name": "weather", "arguments": {"city": "Oslo"}}'
TOOLS = ({"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}},)

TURNS = "{{ range .Messages }}{{ .Role }}: %s{{ .Content }}%s\n{{ end }}"
THOUGHTS = "{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}"
CALLS = "{{ range .ToolCalls }}%s{{ .Function.Name }}{{ end }}"


def go(thoughts: str = "", calls: str = "") -> GoPrompt:
    block = "{{ if .ToolCalls }}" + CALLS % calls + "{{ end }}" if calls else ""
    return GoPrompt(GoTemplate(TURNS % (thoughts, block)))


def jinja(source: str) -> JinjaPrompt:
    return JinjaPrompt(JinjaTemplate(source))


TAGGED = go(THOUGHTS, '<tool_call>{"name": ')
BRACKETS = go(THOUGHTS.replace("<think>", "[THINK]").replace("</think>", "[/THINK]"), "[TOOL_CALLS][")
BARE = go(THOUGHTS, '{"name": ')
LLAMA = jinja((TEMPLATES / "llama-3.1.jinja").read_text())
UNKNOWN = jinja("{{ tools }}{% for m in messages %}<think>{{ m.thoughts }}</think>{{ m.content }}{% endfor %}")
HARMONY = go("<|start|><|channel|><|message|>")
PLAIN = go()

TRANSCRIPTS: list[tuple[str, GoPrompt | JinjaPrompt, str, Parsed]] = [
    ("all of it", TAGGED, f"<think>Hm.</think>\nLet me see. <tool_call>{WEATHER}</tool_call>",
     Parsed("Let me see. ", "Hm.", (OSLO,))),
    ("two calls", TAGGED, f"<think>Hm.</think><tool_call>{WEATHER}</tool_call>\n<tool_call>{WEATHER}</tool_call>",
     Parsed("", "Hm.", (OSLO, OSLO))),
    ("thoughts about a call", TAGGED, f"<think>I write <tool_call>{WEATHER}</tool_call></think>42",
     Parsed("42", f"I write <tool_call>{WEATHER}</tool_call>")),
    ("a call alone", TAGGED, f"<tool_call>{WEATHER}</tool_call>", Parsed(tool_calls=(OSLO,))),
    ("thoughts alone", TAGGED, "<think>Hm. <tool_call>", Parsed(thinking="Hm. <tool_call>")),
    ("an answer alone", TAGGED, "1 < 2 <tool", Parsed("1 < 2 <tool")),
    ("other tags", BRACKETS, f"[THINK]Hm.[/THINK]So:[TOOL_CALLS][{WEATHER}, {WEATHER}]",
     Parsed("So:", "Hm.", (OSLO, OSLO))),
    ("JSON behind thoughts", BARE, f"<think>Hm.</think>\n\n{PARAMETERS}", Parsed("", "Hm.", (OSLO,))),
    ("JSON behind an answer", BARE, f"<think>Hm.</think>So: {WEATHER}", Parsed(f"So: {WEATHER}", "Hm.")),
    ("a chat template's JSON", LLAMA, PARAMETERS, Parsed(tool_calls=(OSLO,))),
    ("a chat template's text", LLAMA, "It is {cold}.", Parsed("It is {cold}.")),
    ("a chat template of no known family", UNKNOWN, f"<think>Hm.</think>\n{WEATHER}", Parsed("", "Hm.", (OSLO,))),
    ("harmony in a TEMPLATE", HARMONY, "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final"
     "<|message|>42<|return|>", Parsed("42", "Hm.")),
    ("no markup at all", PLAIN, "<think>Hm.</think> 42 ", Parsed("<think>Hm.</think> 42 ")),
]  # fmt: skip


def said(template: GoPrompt | JinjaPrompt, transcript: str, expected: Expected, name: str = "") -> object:
    return read_everywhere_cut(lambda: output_parser(expected, template, name), transcript)


@pytest.mark.parametrize(
    ("template", "transcript", "wanted"), [case[1:] for case in TRANSCRIPTS], ids=[case[0] for case in TRANSCRIPTS]
)
def test_transcripts(template: GoPrompt | JinjaPrompt, transcript: str, wanted: Parsed) -> None:
    assert said(template, transcript, Expected(TOOLS, True)) == wanted


@pytest.mark.parametrize("think", [False, None])
def test_without_thinking_the_tags_of_a_go_template_stay(think: Think | None) -> None:
    transcript = f"<think>Hm.</think>So: <tool_call>{WEATHER}</tool_call>"
    assert said(TAGGED, transcript, Expected(TOOLS, think)) == Parsed("<think>Hm.</think>So: ", tool_calls=(OSLO,))


def test_without_tools_what_looks_like_a_call_is_text() -> None:
    transcript = f"<think>Hm.</think>So: <tool_call>{WEATHER}</tool_call>"
    assert said(TAGGED, transcript, Expected((), True)) == Parsed(f"So: <tool_call>{WEATHER}</tool_call>", "Hm.")


def test_a_prompt_that_begins_thoughts_or_a_call() -> None:
    expected = Expected(TOOLS, True, "assistant: <think>\n")
    assert said(TAGGED, f"Hm.</think><tool_call>{WEATHER}", expected) == Parsed("", "Hm.", (OSLO,))
    expected = Expected(TOOLS, True, "assistant: <tool_call>")
    assert said(TAGGED, WEATHER + "</tool_call>", expected) == Parsed(tool_calls=(OSLO,))


def test_a_parser_that_is_named_counts_more_than_the_template() -> None:
    transcript = "<|START_THINKING|>Hm.<|END_THINKING|>42"
    assert said(TAGGED, transcript, Expected(TOOLS, True), "cohere") == Parsed("42", "Hm.")
