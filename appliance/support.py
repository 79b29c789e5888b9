"""What a model can do of what a request asks, and the refusals where it cannot."""

from __future__ import annotations

from collections.abc import Sequence

from appliance.core import Capability, InferenceRequest, Message
from appliance.errors import Unsupported
from appliance.prompt.chat import images_in
from appliance.store.store import StoredModel

CAPABILITIES: frozenset[Capability] = frozenset({"completion", "tools", "insert", "embedding", "thinking", "rerank"})
"""What this version claims of a model that has it. Vision it cannot serve yet."""


def served(capabilities: tuple[Capability, ...]) -> tuple[Capability, ...]:
    """Those of a model's capabilities that this version serves."""
    return tuple(capability for capability in capabilities if capability in CAPABILITIES)


def check_support(model: StoredModel, request: InferenceRequest, endpoint: str) -> None:
    """Raise Unsupported where the request wants thoughts of a model that has none, or text of one that writes none."""
    if request.think and "thinking" not in model.capabilities():
        raise Unsupported(f'"{request.model}" does not support thinking')
    if "completion" not in model.capabilities():
        raise Unsupported(f'"{request.model}" does not support {endpoint}')


def check_sight(model: StoredModel, request: InferenceRequest, messages: Sequence[Message]) -> None:
    """Raise Unsupported where the conversation has images, unless it is only to be rendered."""
    if images_in(messages) and not request.render_only:
        raise Unsupported(f"{model.name.full} does not support vision")
