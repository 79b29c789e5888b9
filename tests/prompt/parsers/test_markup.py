"""What templates tell of how a model writes its calls."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.prompt.chat import GoPrompt, JinjaPrompt
from appliance.prompt.gotemplate import GoTemplate
from appliance.prompt.jinja import JinjaTemplate
from appliance.prompt.parsers.markup import call_tag

TEMPLATES = Path(__file__).parent.parent / "templates"
TURN = "{{ range .Messages }}{{ .Role }}: {{ .Content }}%s\n{{ end }}"


@pytest.mark.parametrize(
    ("block", "tag"),
    [
        ('{{ if .ToolCalls }}<tool_call>\n{"name": "{{ .ToolCalls }}"}{{ end }}', "<tool_call>"),
        ('{{ if .ToolCalls }}{{ range .ToolCalls }} <tool_call>{{ .Function }}{{ end }}{{ end }}', "<tool_call>"),
        ('{{ if .ToolCalls }}{{ range .ToolCalls }}{"name": "{{ .Function.Name }}"}{{ end }}{{ end }}', "{"),
        ('{{ if .ToolCalls }}[{{ range .ToolCalls }}{"name": {{ .Function.Name }}}{{ end }}]{{ end }}', "["),
        ('{{- else if .ToolCalls }}[TOOL_CALLS] [{{ range .ToolCalls }}{"name": 1}{{ end }}]{{ end }}', "[TOOL_CALLS]"),
        ('{{ if and .Content .ToolCalls }}{{ else }}{{ end }}{{ range .ToolCalls }}<f={{ . }}>{{ end }}', "<f="),
        ("{{ if .ToolCalls }}{{ .ToolCalls }}{{ end }}", "{"),
        ("", "{"),
    ],
)  # fmt: skip
def test_the_tag_of_a_go_template(block: str, tag: str) -> None:
    block = block if not block.startswith("{{- else") else "{{ if .Thinking }}x" + block
    assert call_tag(GoPrompt(GoTemplate(TURN % block))) == tag


@pytest.mark.parametrize(
    ("file", "tag"),
    [("qwen", "<tool_call>"), ("llama-3.1", "{"), ("chatml", "{")],
)
def test_the_tag_of_a_jinja_template(file: str, tag: str) -> None:
    assert call_tag(JinjaPrompt(JinjaTemplate((TEMPLATES / f"{file}.jinja").read_text()))) == tag


MISTRAL = """{{ bos_token }}{%- for m in messages %}{%- if m.role == "user" %}
{%- if loop.last or messages[loop.index].role != "user" and loop.index == 1 %}
[AVAILABLE_TOOLS]{{ tools | tojson }}{%- endif %}
[INST]{{ m.content }}[/INST]{%- elif m.tool_calls %}[TOOL_CALLS][
{%- for c in m.tool_calls %}{%- if c.id | length != 9 %}{{ raise_exception("nine") }}{%- endif %}
{{- c.function | tojson }}{%- endfor %}]{{ eos_token }}{%- elif m.role == "tool" %}
{%- if not messages[loop.index0 - 1].tool_calls %}{{ raise_exception("the result of what?") }}{%- endif %}
[TOOL_RESULTS]{{ m.content }}[/TOOL_RESULTS]{%- else %} {{ m.content }}{{ eos_token }}{%- endif %}{%- endfor %}"""
GUARDED = "{{ raise_exception('no') }}{# <tool_call> #}{{ tools }}"


@pytest.mark.parametrize(("source", "tag"), [(MISTRAL, "[TOOL_CALLS]"), (GUARDED, "<tool_call>")])
def test_the_tag_of_a_jinja_template_that_minds_the_conversation(source: str, tag: str) -> None:
    assert call_tag(JinjaPrompt(JinjaTemplate(source))) == tag
