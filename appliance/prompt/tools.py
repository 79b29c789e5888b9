"""Messages and tools in the shapes that templates expect: dictionaries for Jinja, Go's structs for Go.

Tool schemas pass through Ollama's types on the way, which keep only the members they know (spec 1.6).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from appliance.core import Message
from appliance.prompt.gotemplate.values import Alternatives, JSONList, JSONMap, NilList, Struct

EXACT_IN_FLOATS = 2**53
Schema = Mapping[str, Any]


def jinja_message(message: Message) -> dict[str, Any]:
    """A message as chat templates know it; thoughts under both of the names in use."""
    found: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.thinking:
        found |= {"thinking": message.thinking, "reasoning_content": message.thinking}
    if message.tool_calls:
        found["tool_calls"] = [_jinja_call(call) for call in message.tool_calls]
    if message.tool_name:
        found["name"] = message.tool_name
    if message.tool_call_id:
        found["tool_call_id"] = message.tool_call_id
    return found


def _jinja_call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call.get("function") or {}
    named = {"name": function.get("name", ""), "arguments": function.get("arguments") or {}}
    return ({"id": call["id"]} if call.get("id") else {}) | {"type": "function", "function": named}


def jinja_tool(tool: Schema) -> dict[str, Any]:
    """A tool as a client declared it, less what Ollama's types don't keep; one without a type is a function."""
    function = tool.get("function") or {}
    declared = {"name": function.get("name", ""), "description": function.get("description")}
    return _present(
        type=tool.get("type") or "function",
        items=tool.get("items"),
        function=_present(**declared) | {"parameters": _parameters(function.get("parameters") or {})},
    )


def _present(**members: Any) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value}


def _parameters(schema: Schema) -> dict[str, Any]:
    properties = schema.get("properties") or {}
    return (
        {"type": schema.get("type", "object")}
        | ({"$defs": schema["$defs"]} if schema.get("$defs") else {})
        | _present(items=schema.get("items"), required=schema.get("required"))
        | {"properties": {name: _property(value) for name, value in properties.items()}}
    )


def _property(schema: Schema) -> dict[str, Any]:
    return _present(
        anyOf=[_property(alternative) for alternative in schema.get("anyOf") or ()],
        type=schema.get("type"),
        items=schema.get("items"),
        description=schema.get("description"),
        enum=schema.get("enum"),
        properties={name: _property(value) for name, value in (schema.get("properties") or {}).items()},
        required=schema.get("required"),
    )


def go_message(message: Message) -> Struct:
    """A message as Go templates know it."""
    fields = {
        "Role": message.role,
        "Content": message.content,
        "Thinking": message.thinking,
        "Images": _list(message.images),
        "ToolCalls": _list(_go_call(i, call) for i, call in enumerate(message.tool_calls)),
        "ToolName": message.tool_name,
        "ToolCallID": message.tool_call_id,
    }
    names = ("role", "content", "thinking", "images", "tool_calls", "tool_name", "tool_call_id")
    members = dict(zip(names, fields.values(), strict=True))
    always = {name: members[name] for name in ("role", "content")}
    return Struct("*api.Message", fields, always | _present(**members))


def _go_call(position: int, call: Mapping[str, Any]) -> Struct:
    function = call.get("function") or {}
    fields = {
        "Index": function.get("index", position),
        "Name": function.get("name", ""),
        "Arguments": JSONMap(_decoded(function.get("arguments") or {})),
    }
    called = Struct("api.ToolCallFunction", fields, {name.lower(): value for name, value in fields.items()})
    named = {"ID": call.get("id", "")}
    return Struct("api.ToolCall", named | {"Function": called}, _present(id=named["ID"]) | {"function": called})


def _list(elements: Iterable[Any]) -> list[Any]:
    return list(elements) or NilList()


def _decoded(value: Any) -> Any:
    """A client's JSON value as Go decodes it: all numbers are floats. Only one that would lose digits stays whole."""
    if isinstance(value, Mapping):
        return {name: _decoded(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [_decoded(element) for element in value]
    whole = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if whole and abs(value) <= EXACT_IN_FLOATS else value


def go_tools(tools: Iterable[Schema]) -> list[Any]:
    """The tools as Go templates know them; the list and all in it print as JSON."""
    return JSONList(map(_go_tool, tools)) or NilList()


def _go_tool(sent: Schema) -> Struct:
    tool = jinja_tool(sent) | {"type": sent.get("type", "function")}
    declared = tool["function"]
    schema = declared["parameters"]
    properties = JSONMap({name: _go_property(value) for name, value in schema["properties"].items()})
    described = {"name": declared.get("name", ""), "description": declared.get("description", "")}
    parameters = Struct(
        "api.ToolFunctionParameters",
        {
            "Type": schema["type"],
            "Defs": _decoded(schema.get("$defs")),
            "Items": _decoded(schema.get("items")),
            "Required": _list(schema.get("required", ())),
            "Properties": properties,
        },
        {**_decoded(schema), "properties": properties},
        prints_json=True,
    )
    function = Struct(
        "api.ToolFunction",
        {"Name": described["name"], "Description": described["description"], "Parameters": parameters},
        {**described, "parameters": parameters},
        prints_json=True,
    )
    return Struct(
        "api.Tool",
        {"Type": tool["type"], "Items": _decoded(tool.get("items")), "Function": function},
        {**_decoded(tool), "function": function},
        prints_json=True,
    )


def _go_property(schema: Schema) -> Struct:
    declared = schema.get("type", ())
    types = Alternatives([declared] if isinstance(declared, str) else declared)
    alternatives = _list(_go_property(alternative) for alternative in schema.get("anyOf", ()))
    nested = {name: _go_property(value) for name, value in schema.get("properties", {}).items()}
    properties = JSONMap(nested, ordered=True)
    fields = {
        "AnyOf": alternatives,
        "Type": types,
        "Items": _decoded(schema.get("items")),
        "Description": schema.get("description", ""),
        "Enum": _list(_decoded(schema.get("enum", ()))),
        "Properties": properties,
        "Required": _list(schema.get("required", ())),
    }
    shown = {"anyOf": alternatives, "type": types, "properties": properties}
    members = {name: shown.get(name, _decoded(value)) for name, value in schema.items()}
    return Struct("api.ToolProperty", fields, members, prints_json=True)


def merged(messages: Sequence[Message]) -> list[Message]:
    """Neighbours of one role as one message, contents a blank line apart; tool results stay single."""
    found: list[Message] = []
    for message in messages:
        if found and found[-1].role == message.role != "tool":
            found[-1] = _merge(found[-1], message)
        else:
            found.append(message)
    return found


def _merge(first: Message, second: Message) -> Message:
    return Message(
        role=first.role,
        content=f"{first.content}\n\n{second.content}",
        thinking="\n\n".join(filter(None, (first.thinking, second.thinking))),
        images=first.images + second.images,
        tool_calls=first.tool_calls + second.tool_calls,
    )
