"""Conversations: how Go and Jinja templates render them, what history a request has, what of it fits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.core import Message
from appliance.errors import InvalidTemplate
from appliance.prompt.chat import GoPrompt, JinjaPrompt, assemble_history, trim_history, without_thoughts
from appliance.prompt.gotemplate import GoTemplate
from appliance.prompt.jinja import JinjaTemplate


def system(content: str) -> Message:
    return Message("system", content)


def user(content: str) -> Message:
    return Message("user", content)


def assistant(content: str, **more: Any) -> Message:
    return Message("assistant", content, **more)


def go(source: str) -> GoPrompt:
    return GoPrompt(GoTemplate(source))


def jinja(source: str) -> JinjaPrompt:
    return JinjaPrompt(JinjaTemplate(source), "<s>", "</s>")


MISTRAL = {
    "no response": "[INST] {{ if .System }}{{ .System }}\n\n{{ end }}{{ .Prompt }}[/INST] ",
    "response": "[INST] {{ if .System }}{{ .System }}\n\n{{ end }}{{ .Prompt }}[/INST] {{ .Response }}",
    "messages": "[INST] {{ if .System }}{{ .System }}\n\n{{ end }}\n{{- range .Messages }}\n"
    '{{- if eq .Role "user" }}{{ .Content }}[/INST] {{ else if eq .Role "assistant" }}{{ .Content }}[INST] {{ end }}\n'
    "{{- end }}",
}
CHATML = {
    "response": "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}"
    "{{ if .Prompt }}<|im_start|>user\n{{ .Prompt }}<|im_end|>\n{{ end }}"
    "<|im_start|>assistant\n{{ .Response }}<|im_end|>\n",
    "messages": "{{- range $index, $_ := .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n"
    "{{ end }}<|im_start|>assistant\n",
}
TURNS = [system("Be kind."), user("Hello friend!"), assistant("Hello human!"), user("What is your name?")]


@pytest.mark.spec(95)
@pytest.mark.parametrize("kind", MISTRAL)
def test_old_and_new_mistral_templates_agree(kind: str) -> None:
    expected = "[INST] Be kind.\n\nHello friend![/INST] Hello human![INST] What is your name?[/INST] "
    assert go(MISTRAL[kind]).render(TURNS) == expected


@pytest.mark.spec(95)
@pytest.mark.parametrize("kind", CHATML)
def test_old_and_new_chatml_templates_agree(kind: str) -> None:
    assert go(CHATML[kind]).render(TURNS) == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHello friend!<|im_end|>\n<|im_start|>assistant\n"
        "Hello human!<|im_end|>\n<|im_start|>user\nWhat is your name?<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.spec(26, 42)
@pytest.mark.parametrize(
    ("source", "messages", "expected"),
    [
        ("{{ .Prompt }}", [user("Hi")], "Hi"),
        ("{{ .Prompt }}", [user("a"), assistant("b"), user("c")], "abc"),
        (
            "{{- if .System }}{{ .System }} {{ end }}{{- if .Prompt }}### USER {{ .Prompt }} {{ end }}"
            "{{- if .Response }}### ASSISTANT {{ .Response }} {{ end }}",
            [system("You can perform magic tricks."), user("Help me write tests.")],
            "You can perform magic tricks. ### USER Help me write tests. ",
        ),
        # a reply that was begun is continued; a later system message starts a new exchange
        ("[INST] {{ .Prompt }}[/INST] {{ .Response }}</s>", [user("a"), assistant("I")], "[INST] a[/INST] I"),
        ("S={{ .System }} P={{ .Prompt }};", [user("a"), system("x"), user("b")], "S= P=a;S=x P=b;"),
        ("P={{ .Prompt }};", [user("a"), Message("tool", "22"), user("b")], "P=b;"),
        # messages
        ("{{ range .Messages }}{{ .Role }}: {{ .Content }}\n{{ end }}", [user("Hello!")], "user: Hello!\n"),
        (
            "{{ .System }}|{{ range .Messages }}{{ .Role }}={{ .Content }};{{ end }}",
            [system("one"), user("a"), user("b"), system("two"), assistant("c")],
            "one\n\ntwo|system=one;user=a\n\nb;system=two;assistant=c;",
        ),
        (
            "{{ range .Messages }}{{ .Role }}{{ .ToolName }}{{ .ToolCallID }}={{ .Content }};{{ end }}",
            [Message("tool", "sunny", tool_name="sky"), Message("tool", "72F", tool_call_id="call_1")],
            "toolsky=sunny;toolcall_1=72F;",
        ),
    ],
)
def test_go_templates_render_conversations(source: str, messages: list[Message], expected: str) -> None:
    assert go(source).render(messages) == expected


@pytest.mark.spec(27)
def test_go_templates_fill_in_the_middle() -> None:
    prompt = go("{{- if .Suffix }}<PRE> {{ .Prompt }} <SUF>{{ .Suffix }} <MID>\n{{- else }}{{ .Prompt }}\n{{- end }}")
    assert prompt.render_fim("def add(", "    return c") == "<PRE> def add( <SUF>    return c <MID>"
    assert prompt.render([user("def add(")]) == "def add("


@pytest.mark.parametrize(
    ("think", "expected"),
    [
        (None, "false  false"),
        (False, "false  true"),
        (True, "true medium true"),
        ("high", "true high true"),
    ],
)
def test_go_templates_learn_about_thinking(think: Any, expected: str) -> None:
    new = go("{{ if .Messages }}{{ .Think }} {{ .ThinkLevel }} {{ .IsThinkSet }}{{ end }}")
    assert new.render([user("a")], think=think) == expected
    assert go("{{ .Think }} {{ .ThinkLevel }} {{ .IsThinkSet }}").render([user("a")], think=think) == expected


TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "",
        "parameters": {
            "type": "object",
            "required": ["place"],
            "properties": {
                "when": {
                    "type": ["string", "null"],
                    "description": "a day",
                    "pattern": "x",
                    "enum": ["now", "<later>"],
                },
                "place": {
                    "type": "object",
                    "properties": {"z": {"type": "integer"}, "a": {"anyOf": [{"type": "array"}]}},
                },
            },
        },
    },
}
PLACE = '"place":{"type":"object","properties":{"z":{"type":"integer"},"a":{"anyOf":[{"type":"array"}]}}}'
WHEN = '"when":{"type":["string","null"],"description":"a day","enum":["now","\\u003clater\\u003e"]}'
PARAMETERS = f'{{"type":"object","required":["place"],"properties":{{{PLACE},{WHEN}}}}}'
FUNCTION = f'{{"name":"weather","description":"","parameters":{PARAMETERS}}}'
TOOL_JSON = f'{{"type":"function","function":{FUNCTION}}}'


@pytest.mark.spec(90)
@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ .Tools }}", f"[{TOOL_JSON}]"),
        ("{{ json .Tools }}", f"[{TOOL_JSON}]"),
        ("{{ range .Tools }}{{ . }}{{ end }}", TOOL_JSON),
        ("{{ range .Tools }}{{ .Function }}{{ end }}", FUNCTION),
        ("{{ range .Tools }}{{ json .Function.Parameters }}{{ end }}", PARAMETERS),
        ("{{ range .Tools }}{{ .Function.Parameters.Properties }}{{ end }}", f"{{{PLACE},{WHEN}}}"),
        (
            "{{ range .Tools }}{{ .Type }} {{ .Function.Name }} {{ .Function.Parameters.Required }}{{ end }}",
            "function weather [place]",
        ),
        (
            "{{ range .Tools }}{{ range $n, $p := .Function.Parameters.Properties }}{{ $n }}: {{ $p.Type }} "
            "{{ toTypeScriptType $p }} {{ $p.Enum }} {{ $p.Description }};{{ end }}{{ end }}",
            "place: object Record<string, any> [] ;when: [string null] string | null [now <later>] a day;",
        ),
    ],
)
def test_go_templates_print_tools(source: str, expected: str) -> None:
    assert go(source + "{{ if .Messages }}{{ end }}").render([user("a")], tools=[TOOL]) == expected


def test_a_tool_of_which_little_is_said() -> None:
    tool = {"type": "", "function": {"name": "now", "description": "", "parameters": {"type": "", "properties": {}}}}
    printed = '[{"type":"","function":{"name":"now","description":"","parameters":{"type":"","properties":{}}}}]'
    assert go("{{ .Tools }}{{ if .Messages }}{{ end }}").render([user("a")], tools=[tool]) == printed
    assert jinja("{{ tools[0].type }} {{ tools[0].function.name }}").render([user("a")], tools=[tool]) == "function now"


CALL = {"id": "call_1", "function": {"index": 0, "name": "weather", "arguments": {"b": 1, "a": "<x>"}}}


def test_go_templates_print_tool_calls() -> None:
    source = (
        "{{ range .Messages }}{{ .Thinking }}{{ range .ToolCalls }}{{ .ID }} {{ .Function.Index }} "
        "{{ .Function.Name }} {{ .Function.Arguments }} {{ json .Function.Arguments }} "
        "{{ range $k, $v := .Function.Arguments }}"
        "{{ $k }}={{ $v }};{{ end }}{{ end }}{{ end }}"
    )
    arguments = '{"a":"\\u003cx\\u003e","b":1}'
    rendered = go(source).render([assistant("", thinking="hm ", tool_calls=(CALL,))])
    assert rendered == f"hm call_1 0 weather {arguments} {arguments} a=<x>;b=1;"


def test_merging_messages_keeps_their_tool_calls_and_thoughts() -> None:
    source = "{{ range .Messages }}{{ .Content }}|{{ .Thinking }}|{{ len .ToolCalls }}{{ len .Images }}{{ end }}"
    messages = [assistant("a", images=(b"x",)), assistant("b", thinking="t", tool_calls=(CALL,))]
    assert go(source).render(messages) == "a\n\nb|t|11"


@pytest.mark.spec(55)
def test_jinja_templates_get_messages_tools_and_tokens() -> None:
    prompt = jinja(
        "{{ bos_token }}{{ messages | tojson }}{{ tools | tojson }}{{ add_generation_prompt }}{{ eos_token }}"
    )
    messages = [
        user("<hi>"),
        assistant("", thinking="hm", tool_calls=(CALL,)),
        Message("tool", "22", tool_name="weather", tool_call_id="call_1"),
    ]
    assert prompt.render(messages, tools=[TOOL]) == (
        '<s>[{"role": "user", "content": "<hi>"}, {"role": "assistant", "content": "", "thinking": "hm", '
        '"reasoning_content": "hm", "tool_calls": [{"id": "call_1", "type": "function", "function": '
        '{"name": "weather", "arguments": {"b": 1, "a": "<x>"}}}]}, '
        '{"role": "tool", "content": "22", "name": "weather", "tool_call_id": "call_1"}]'
        '[{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "required": ["place"], '
        '"properties": {"when": {"type": ["string", "null"], "description": "a day", "enum": ["now", "<later>"]}, '
        '"place": {"type": "object", "properties": {"z": {"type": "integer"}, '
        '"a": {"anyOf": [{"type": "array"}]}}}}}}}]'
        "True</s>"
    )


@pytest.mark.parametrize(
    ("think", "expected"), [(None, "unset|unset"), (False, "False|unset"), (True, "True|unset"), ("low", "True|low")]
)
def test_jinja_templates_learn_about_thinking(think: Any, expected: str) -> None:
    prompt = jinja("{{ enable_thinking | default('unset') }}|{{ reasoning_effort | default('unset') }}")
    assert prompt.render([user("a")], think=think) == expected


def test_jinja_templates_continue_what_the_assistant_began() -> None:
    prompt = jinja(
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[go]{% endif %}"
    )
    assert prompt.render([user("a"), assistant("I am")]) == "[user]a[go]I am"
    assert prompt.render([user("a"), assistant("b"), user("c")]) == "[user]a[assistant]b[user]c[go]"


@pytest.mark.spec(25, 43)
@pytest.mark.parametrize(
    ("request_messages", "expected"),
    [
        ([user("Hello!")], "You are a helpful assistant./example/Hello!"),
        ([system("Other."), user("Hello!")], "example/Other./Hello!"),
        ([user("Hello!"), system("Later.")], "You are a helpful assistant./example/Hello!/Later."),
    ],
)
def test_the_models_system_message_gives_way_to_the_requests(request_messages: list[Message], expected: str) -> None:
    history = assemble_history("You are a helpful assistant.", [user("example")], request_messages)
    assert "/".join(message.content for message in history) == expected


def test_a_model_without_a_system_message_adds_none() -> None:
    assert assemble_history("", [], [user("a")]) == [user("a")]


@pytest.mark.spec(18)
def test_thoughts_are_dropped_before_the_last_question() -> None:
    thought = assistant("<think>\nhm\n</think>\n\nYes.")
    kept = [user("<think>a</think>b"), assistant("no <think>x</think>"), assistant("<think>open"), user("q"), thought]
    assert without_thoughts([thought, *kept]) == [assistant("Yes."), *kept]


def fits(limit: int) -> Any:
    return lambda messages: sum(len(message.content) for message in messages) <= limit


@pytest.mark.spec(53)
@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (100, "S aaaa bbbb T cccc dddd"),
        (17, "S bbbb T cccc dddd"),
        (14, "S bbbb T cccc dddd"),
        (13, "S T cccc dddd"),
        (9, "S T dddd"),
        (1, "S T dddd"),
    ],
)
def test_the_oldest_messages_go_first_and_system_messages_stay(limit: int, expected: str) -> None:
    messages = [system("S"), user("aaaa"), user("bbbb"), system("T"), user("cccc"), user("dddd")]
    trimmed = " ".join(message.content for message in trim_history(messages, fits(limit)))
    assert trimmed == expected


messages_of_lengths = st.lists(
    st.tuples(st.sampled_from(["system", "user", "assistant"]), st.integers(0, 9)), min_size=1, max_size=12
).map(lambda turns: [Message(role, f"{i}:" + "x" * length) for i, (role, length) in enumerate(turns)])


def one_by_one(messages: Sequence[Message], limit: int) -> list[Message]:
    """The rule as the specification words it."""
    for start in range(len(messages)):
        kept = [message for message in messages[:start] if message.role == "system"] + list(messages[start:])
        if fits(limit)(kept):
            return kept
    return kept


@pytest.mark.spec(54)
@given(messages=messages_of_lengths, limit=st.integers(0, 100))
def test_no_more_is_dropped_than_needed(messages: list[Message], limit: int) -> None:
    asked: list[int] = []

    def asking(kept: Sequence[Message]) -> bool:
        asked.append(len(kept))
        return bool(fits(limit)(kept))

    assert trim_history(messages, asking) == one_by_one(messages, limit)
    assert len(asked) <= 5
    if fits(limit)(messages):
        assert len(asked) <= 1


def test_a_template_that_wants_a_user_first_gets_one() -> None:
    turns = [message for i in range(20) for message in (user(f"{i:04}"), assistant("eeee"))] + [user("last")]

    def asking(kept: Sequence[Message]) -> bool:
        if kept[0].role != "user":
            raise InvalidTemplate("roles must alternate")
        return bool(fits(30)(kept))

    trimmed = trim_history(turns, asking)
    assert [message.content for message in trimmed] == ["0017", "eeee", "0018", "eeee", "0019", "eeee", "last"]


def test_a_template_that_refuses_the_whole_conversation_is_heard() -> None:
    def asking(kept: Sequence[Message]) -> bool:
        raise InvalidTemplate("no")

    with pytest.raises(InvalidTemplate):
        trim_history([user("a"), user("b")], asking)
