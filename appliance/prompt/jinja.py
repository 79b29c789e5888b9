"""Chat templates in Jinja, rendered as transformers renders them, within limits of time and size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2

from appliance.errors import InvalidTemplate
from appliance.prompt.limits import Limits, Meter
from appliance.prompt.sandbox import METER, Sandbox

SANDBOX = Sandbox(lambda: datetime.now())


class JinjaTemplate:
    """A compiled chat template; rendering it from several threads at once is fine.

    Compiling and rendering raise InvalidTemplate and nothing else, in about `limits.time_s` at the latest.
    """

    def __init__(self, source: str, limits: Limits | None = None, sandbox: Sandbox = SANDBOX) -> None:
        self.source = source
        self._limits = limits or Limits()
        if len(source) > self._limits.source_chars:
            raise InvalidTemplate(f"chat template exceeds the limit of {self._limits.source_chars:,} characters")
        token = METER.set(Meter(self._limits))
        try:
            self._template = sandbox.from_string(source)
        except Exception as error:  # the compiler of a stranger's text may raise whatever it likes
            raise _invalid(error) from error
        finally:
            METER.reset(token)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """The prompt for `messages`, plain dictionaries with `role`, `content` and whatever else they have.

        `variables` are what the template may ask for beside them: bos_token, eos_token, enable_thinking ...
        """
        values = dict(
            {"documents": None} | variables,
            messages=list(messages),
            tools=list(tools) if tools else None,
            add_generation_prompt=add_generation_prompt,
        )
        meter = Meter(self._limits, values)
        token = METER.set(meter)
        try:
            pieces, chars = [], 0
            for piece in self._template.root_render_func(self._template.new_context(values)):
                pieces.append(piece)
                chars += len(piece)
                meter.fits(chars)
            return "".join(pieces)
        except Exception as error:  # templates reach into values they only guess at
            raise _invalid(error) from error
        finally:
            METER.reset(token)


def _invalid(error: Exception) -> InvalidTemplate:
    if isinstance(error, InvalidTemplate):
        return error
    if isinstance(error, RecursionError):
        return InvalidTemplate("chat template is nested too deeply")
    if isinstance(error, jinja2.TemplateSyntaxError):
        return InvalidTemplate(f"chat template: line {error.lineno}: {error.message}")
    if isinstance(error, jinja2.TemplateError):
        return InvalidTemplate(f"chat template: {error.message or type(error).__name__}")
    return InvalidTemplate(f"chat template: {type(error).__name__}: {str(error)[:500]}")
