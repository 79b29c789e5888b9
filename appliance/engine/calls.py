"""Tool calls whose arguments fit the tool's schema: free text until a call begins, then a grammar until it is whole.

What the model says before is sampled as if there were no grammar: no mask, no forced token. Watching costs a search for
the tag in every new piece of text.

A call that would outgrow the tokens that are left is brought to its end in time, so that what arrives is whole.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import astuple
from typing import Any, Protocol

import llguidance
import numpy as np
import numpy.typing as npt

from appliance.engine.call_grammar import call_grammar, named_object
from appliance.engine.constrain import CACHED_SCHEMAS, Constraint, Grammars
from appliance.engine.ending import MOST_TOKENS, Endings, Quotes
from appliance.errors import ApplianceError, InvalidRequest, first_line
from appliance.prompt.parsers.shape import CallShape

log = logging.getLogger(__name__)

WINDOW_CHARS = 512  # how far back a further call in a list is looked for
SPARE_TOKENS = 64  # by how much one token, the beginning of an object, may lengthen the way to a call's end
LOOK_EVERY_TOKENS = 16
MOST_REPEATS = 20  # of one token, before generation.REPEATS_LIMIT ends the whole answer


class Text(Protocol):
    """Turns tokens into text."""

    def push(self, token: int) -> str: ...


class Watch:
    """Tells from an answer's text where a call begins.

    After the shape's tag; or, where that has none, with an object that names a tool as the first thing that is said;
    and after one call, with any further such object. Thoughts, between `thoughts` at the beginning, are passed over;
    `thinking`: the prompt has opened them.
    """

    def __init__(
        self, shape: CallShape, names: Sequence[str], thoughts: tuple[str, str] | None = None, *, thinking: bool = False
    ) -> None:
        self._tag = shape.tag
        self._object = named_object(shape, names) if shape.in_object else None
        self._first = re.compile(rf"\s*\[?\s*(?:{self._object.pattern})") if self._object else None
        self._thoughts = thoughts
        self._thinking = thinking and thoughts is not None
        self._begun = thinking or thoughts is None  # whether it is known if thoughts come first
        self._called = self._over = False
        self._seen = ""

    def push(self, text: str) -> str | None:
        """What of the call is there already, behind the tag, if `text` begins one."""
        if self._over or not text:
            return None
        self._seen += text
        if self._thoughts and not self._past_thoughts(*self._thoughts):
            return None
        if self._tag:
            _, tag, behind = self._seen.partition(self._tag)
            if tag:
                return self.begin(behind)
        if self._called:
            further = self._object.search(self._seen) if self._object else None
            if further:
                return self.begin(self._seen[further.start() :])
            self._seen = self._seen[-WINDOW_CHARS:]
        elif self._tag:
            self._seen = self._seen[max(0, len(self._seen) - len(self._tag) + 1) :]
        else:
            return self._first_thing()
        return None

    def begin(self, behind: str = "") -> str:
        """Take note that a call begins here, with `behind`."""
        self._seen, self._called = "", True
        return behind

    def _first_thing(self) -> str | None:
        begun = self._seen.lstrip()
        if not begun:
            return None
        first = self._first.match(self._seen) if self._first else None
        if first:
            return self.begin(self._seen[self._seen.index("{") :])
        self._over = begun[0] not in "{[" or len(begun) > WINDOW_CHARS
        return None

    def _past_thoughts(self, opening: str, closing: str) -> bool:
        """Whether what is said no longer is a thought; then `_seen` is only what follows them."""
        if not self._begun:
            begun = self._seen.lstrip()
            if opening.startswith(begun):
                return False
            self._begun, self._thinking = True, begun.startswith(opening)
        if self._thinking:
            _, closed_, behind = self._seen.partition(closing)
            if not closed_:
                self._seen = self._seen[max(0, len(self._seen) - len(closing) + 1) :]
                return False
            self._thinking, self._seen = False, behind
        self._thoughts = None
        return True


class CallConstraint:
    """A Constraint on calls alone. Belongs to one thread at a time, like each of its methods' namesakes."""

    finished = False  # after a call the answer may go on

    def __init__(self, watch: Watch, text: Text, grammar: Future[CallGrammar], *, opened: bool = False) -> None:
        """`text` turns the answer's tokens into text; `opened`: the prompt has begun a call, so that the grammar is
        waited for here.
        """
        self._watch = watch
        self._text = text
        self._grammar = grammar
        self._call: Constraint | None = None
        self._endings: Endings | None = None
        self._quotes = Quotes()
        self._ending: deque[int] = deque()  # the tokens with which a call that has become too long is ended
        self._looked_at = sys.maxsize
        self._last, self._repeats = -1, 0
        if opened:
            self._begin(watch.begin())

    @property
    def active(self) -> bool:
        """Whether a call is under way."""
        return self._call is not None

    def mask(self) -> npt.NDArray[np.bool_] | None:
        """The tokens [V] that may come next, None for all."""
        mask: npt.NDArray[np.bool_] | None = self._tried(lambda call: call.mask())
        if self._ending and mask is not None:
            mask = np.zeros_like(mask)
            mask[self._ending[0]] = True
        return mask

    def forced(self) -> list[int]:
        """The tokens that must come next, as far as they are certain."""
        if self._ending:
            return list(self._ending)
        return self._call.forced() if self._call else []

    def reach(self, tokens: Sequence[int]) -> int:
        """How many of `tokens` may come next, one after the other, as far as that can be told."""
        return self._call.reach(tokens) if self._call else len(tokens)

    def accept(self, token: int) -> None:
        """Go on with `token`, which the mask allowed."""
        text = self._text.push(token)
        if self._call:
            self._quotes.push(text.encode())
            self._repeats = self._repeats + 1 if token == self._last else 0
            self._last = token
            self._tried(lambda call: call.accept(token))
            if self._ending:
                self._ending.popleft()
            if self._call and self._call.finished:
                self._call = None
        elif (behind := self._watch.push(text)) is not None:
            self._begin(behind)

    def end_within(self, left: int) -> None:
        """Take the way to the call's end, once it needs almost all of the `left` tokens that may still come.

        Or once one token comes over and over.
        """
        soon = left <= MOST_TOKENS + SPARE_TOKENS + LOOK_EVERY_TOKENS and self._looked_at - left >= LOOK_EVERY_TOKENS
        stuck = self._repeats == MOST_REPEATS
        if not (self._call and self._endings and (soon or stuck)) or self._ending:
            return
        self._looked_at = left
        found = self._endings.tokens(self._call.matcher, self._quotes)
        if found and (stuck or left - LOOK_EVERY_TOKENS - SPARE_TOKENS <= len(found)) and len(found) <= left:
            log.info("a tool call is ended with %d tokens; %d may still come", len(found), left)
            self._ending = deque(found)

    def _begin(self, behind: str) -> None:
        """Follow the grammar from here on, if what the call begins with is in it."""
        self._quotes, self._ending, self._looked_at = Quotes(behind.encode()), deque(), sys.maxsize
        try:
            grammar = self._grammar.result()
            self._endings = grammar.endings
            self._call = grammar.follow(behind)
        except ApplianceError as error:
            log.warning("a tool call is not constrained: %s", error)
        except Exception:  # whatever the compiler did must not end the engine
            log.exception("a tool call is not constrained")

    def _tried(self, act: Callable[[Constraint], Any]) -> Any:
        """What `act` makes of the call's constraint; a call that outgrows the grammar's limits goes on without."""
        try:
            return act(self._call) if self._call else None
        except InvalidRequest as error:
            log.warning("a tool call goes on unconstrained: %s", error)
            self._call = None
            self._ending.clear()
            return None


class CallGrammar:
    """A compiled grammar of one request's calls."""

    def __init__(
        self, tokenizer: llguidance.LLTokenizer, grammar: str, vocab_size: int, endings: Endings | None = None
    ) -> None:
        """Raises InvalidRequest for a grammar that does not compile. `endings` bring calls to their end in time."""
        self.endings = endings
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._matcher = llguidance.LLMatcher(tokenizer, llguidance.LLMatcher.grammar_from_lark(grammar), log_level=0)
        if self._matcher.is_error():
            raise InvalidRequest(first_line(self._matcher.get_error()))

    def follow(self, begun: str) -> Constraint | None:
        """A constraint for a call that has begun like this, None if no call begins so."""
        matcher = self._matcher.deep_copy()
        tokens = self._tokenizer.tokenize_str(begun, parse_special=True) if begun else []
        if matcher.try_consume_tokens(tokens) < len(tokens) or matcher.is_stopped():
            return None
        return Constraint(matcher, self._vocab_size)


class CallGrammars:
    """Compiles the calls of requests for one model, each request's in a thread, so that its prompt need not wait.

    May be used from several threads.
    """

    def __init__(self, grammars: Grammars) -> None:
        self._grammars = grammars
        self._compiled: OrderedDict[str, Future[CallGrammar]] = OrderedDict()
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="call grammars")  # starts at first use
        self._endings: Endings | None = None

    def compiled(
        self, shape: CallShape, functions: Mapping[str, Any], control: Mapping[int, str]
    ) -> Future[CallGrammar]:
        """The grammar of a call of one of `functions`; see `call_grammar`."""
        key = json.dumps([astuple(shape), functions, sorted(control)])
        with self._lock:
            found = self._compiled.pop(key, None) or self._thread.submit(self._compile, shape, functions, control)
            self._compiled[key] = found
            if len(self._compiled) > CACHED_SCHEMAS:
                self._compiled.popitem(last=False)
            return found

    def _compile(self, shape: CallShape, functions: Mapping[str, Any], control: Mapping[int, str]) -> CallGrammar:
        grammar = call_grammar(shape, functions, control)
        tokenizer, vocab_size = self._grammars.tokenizer(), self._grammars.vocab_size
        self._endings = self._endings or Endings(tokenizer, vocab_size)
        return CallGrammar(tokenizer, grammar, vocab_size, self._endings)
