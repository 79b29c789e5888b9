"""Go's text/template, as far as Ollama's templates use it, within limits of time and size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from appliance.errors import InvalidTemplate
from appliance.prompt.gotemplate.evaluator import Evaluator
from appliance.prompt.gotemplate.functions import NAMES, Context
from appliance.prompt.gotemplate.nodes import Action, Block, Branch, Command, Cut, Field, Invocation, Pipe, names_in
from appliance.prompt.gotemplate.parser import parse
from appliance.prompt.limits import Limits, Meter

RESPONSE = Action(Pipe(0, (), False, (Command(0, (Field(0, ("Response",)),)),)))


class GoTemplate:
    """A parsed template; executing it from several threads at once is fine.

    Parsing raises InvalidTemplate with Go's text (`template: :1: unclosed action`), executing it likewise, and
    when a limit is passed. As Ollama does, `{{ .Response }}` is appended to a template that mentions neither
    `.Messages` nor `.Response`.
    """

    def __init__(
        self, source: str, limits: Limits | None = None, now: Callable[[], datetime] = lambda: datetime.now()
    ) -> None:
        self.source = source
        self._limits = limits or Limits()
        self._now = now
        if len(source) > self._limits.source_chars:
            raise InvalidTemplate(f"template exceeds the limit of {self._limits.source_chars:,} characters")
        self._templates = parse(source, NAMES)
        if any(_invokes_nothing(block) for block in self._templates.values()):
            raise InvalidTemplate("undefined template specified")
        self.variables = self._fields()
        if not self.variables & {"messages", "response"}:
            self._templates[""] += (RESPONSE,)
            self.variables = self._fields()

    @property
    def blocks(self) -> Iterable[Block]:
        """What it is made of: the templates that it defines, and itself."""
        return self._templates.values()

    def _fields(self) -> frozenset[str]:
        names = (name for block in self._templates.values() for name in names_in(block))
        return frozenset(map(str.lower, names))

    def execute(self, data: Mapping[str, Any], until: str = "", meter: Meter | None = None) -> str:
        """The output with `data` as dot; `until` a field: nothing that follows its first mention.

        Give one meter to several executions that make up one prompt.
        """
        block = self._templates[""]
        if until:
            block = Cut(until).block(block)
        meter = meter or Meter(self._limits, data)
        evaluator = Evaluator(self.source, self._templates, Context(meter, self._now()))
        try:
            return evaluator.run(block, data)
        except RecursionError as error:
            raise InvalidTemplate("template: nested too deeply") from error


def _invokes_nothing(block: Block) -> bool:
    """Whether a `{{ template }}` passes no value, which Ollama refuses."""
    return any(
        (isinstance(node, Invocation) and node.pipe is None)
        or (isinstance(node, Branch) and (_invokes_nothing(node.body) or _invokes_nothing(node.otherwise)))
        for node in block
    )
