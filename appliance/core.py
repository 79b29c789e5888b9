"""The nouns that every part of the appliance shares: dataclasses, no behaviour.

Durations are integer nanoseconds (`_ns`) or float seconds (`_s`), sizes are bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

from appliance.conversion_facts import BundleFacts

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Capability = Literal["completion", "tools", "insert", "vision", "embedding", "thinking", "rerank", "image"]
Role = str
Think = bool | Literal["low", "medium", "high", "max"]
FOREVER_S = float("inf")


class DoneReason(StrEnum):
    """Why a reply ended."""

    STOP = "stop"
    LENGTH = "length"
    LOAD = "load"
    UNLOAD = "unload"


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen. The defaults are Ollama's.

    `seed` < 0 draws a fresh one; `num_predict` < 0 means ten times the context; a filter is off at the
    value its comment names.
    """

    temperature: float = 0.8  # 0: greedy
    top_k: int = 40  # <= 0: off
    top_p: float = 0.9  # 1: off
    min_p: float = 0.0  # 0: off
    typical_p: float = 1.0  # 1: off
    repeat_penalty: float = 1.0  # 1: off
    repeat_last_n: int = 64  # 0: off, -1: the whole context
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = -1
    num_predict: int = -1
    num_keep: int = 4
    stop: tuple[str, ...] = ()
    logprobs: bool = False
    top_logprobs: int = 0


@dataclass(frozen=True, slots=True)
class Request:
    """What the engine runs: a tokenised prompt and how to continue it.

    `constraint` is a Constraint or a CallConstraint (of engine/) of this request's own, or None: free text. `shown`
    are the control tokens that are text in this answer, as they are spelled.
    """

    tokens: tuple[int, ...]
    sampling: SamplingParams
    num_ctx: int
    shift: bool = True
    constraint: Any = None
    shown: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One generated token, its natural-log probability before temperature, and its best alternatives."""

    token: str
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """What a request cost. `prompt_tokens` is the whole prompt, `cached_tokens` the part found in the cache."""

    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    prompt_ns: int
    generate_ns: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """What the engine emits: text that is final, and with the last chunk why and at what cost it ended."""

    text: str = ""
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    done_reason: DoneReason | None = None
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class EngineStats:
    """What a loaded model's engine does at the moment, and its totals since it was loaded.

    `prompt_tokens` are those of all prompts that got a slot, `cached_tokens` the part of them that needed no
    evaluation, `evaluated_tokens` all tokens that ran through the model. Of `drafted_tokens`, guessed without the
    model, it confirmed `accepted_tokens`. `queue` has the prompt tokens of those that wait for a slot, the next one
    first; `waiting` counts them too, and those that the engine has not looked at yet. `prefix_evictions` counts
    prefixes that left host memory, by reason.
    """

    slots: int
    busy_slots: int
    waiting: int
    queue: tuple[int, ...]
    prompt_tokens: int
    cached_tokens: int
    evaluated_tokens: int
    generated_tokens: int
    drafted_tokens: int
    accepted_tokens: int
    prefix_cache_bytes: int
    prefix_evictions: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str = ""
    thinking: str = ""
    images: tuple[bytes, ...] = ()
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    tool_name: str = ""
    tool_call_id: str = ""


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """What chat and generate have in common. `model` is the name as the client sent it.

    `options` are Ollama's option names with JSON values, not yet checked. `keep_alive_s` None keeps the
    model's present value, FOREVER_S never unloads, 0 unloads afterwards. `shift` None is the model's default.
    """

    model: str
    options: Mapping[str, Any] = field(default_factory=dict)
    keep_alive_s: float | None = None
    think: Think | None = None
    format: Any = None
    truncate: bool = True
    shift: bool | None = None
    logprobs: bool = False
    top_logprobs: int = 0
    render_only: bool = False


@dataclass(frozen=True, slots=True)
class ChatRequest(InferenceRequest):
    """A conversation to continue. No messages: load the model, or unload it when keep_alive_s is 0."""

    messages: tuple[Message, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class GenerateRequest(InferenceRequest):
    """A prompt to continue. No prompt: load the model, or unload it when keep_alive_s is 0."""

    prompt: str = ""
    suffix: str = ""
    system: str = ""
    template: str = ""
    context: tuple[int, ...] = ()
    raw: bool = False
    images: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """Texts to embed; none: only load the model. `model`, `options` and `keep_alive_s` as in InferenceRequest.

    `dimensions` from 1 cuts vectors that are longer. `truncate` off refuses a text that does not fit.
    """

    model: str
    inputs: tuple[str, ...] = ()
    truncate: bool = True
    dimensions: int = 0
    normalize: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)
    keep_alive_s: float | None = None


@dataclass(frozen=True, slots=True)
class Embeddings:
    """A vector [D] for every text, in their order; the tokens of all, special ones included; nanoseconds."""

    vectors: Sequence[npt.NDArray[np.float32]] | npt.NDArray[np.float32] = ()
    prompt_tokens: int = 0
    total_ns: int = 0
    load_ns: int = 0


@dataclass(frozen=True, slots=True)
class RerankRequest:
    """Documents to order by how well they answer `query`. `top_n` None: all of them. For the rest see EmbedRequest."""

    model: str
    query: str
    documents: tuple[str, ...]
    top_n: int | None = None
    truncate: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)
    keep_alive_s: float | None = None


@dataclass(frozen=True, slots=True)
class Ranked:
    """A document by its place in the request, and its relevance from 0 to 1."""

    index: int
    relevance: float


@dataclass(frozen=True, slots=True)
class Ranking:
    """Documents, the most relevant first, and the tokens of all pairs that were scored."""

    results: tuple[Ranked, ...]
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Metrics:
    """The six figures of a finished reply."""

    total_ns: int
    load_ns: int
    prompt_tokens: int
    prompt_ns: int
    generated_tokens: int
    generate_ns: int


@dataclass(frozen=True, slots=True)
class Reply:
    """One event of a chat or generate stream; the last has `done` set.

    `rendered` carries the prompt text when only rendering was asked for, with markers for `images` images; `context`
    the tokens of prompt and answer on the last event of a generate that is not raw.
    """

    text: str = ""
    thinking: str = ""
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    done: bool = False
    done_reason: DoneReason | None = None
    metrics: Metrics | None = None
    context: tuple[int, ...] = ()
    rendered: str | None = None
    images: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """One line of a stream of create, pull or push."""

    status: str
    digest: str = ""
    total: int = 0
    completed: int = 0


@dataclass(frozen=True, slots=True)
class TransferRequest:
    """A model to pull or to push. `insecure` speaks http."""

    model: str
    insecure: bool = False


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """A model to create, from an installed one (`source`) or from uploaded blobs (`files`)."""

    model: str
    source: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    adapters: Mapping[str, str] = field(default_factory=dict)
    template: str = ""
    system: str = ""
    licenses: tuple[str, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[Message, ...] = ()
    quantize: str = ""
    renderer: str = ""
    parser: str = ""
    requires: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """The `details` of a model."""

    format: str
    family: str
    families: tuple[str, ...]
    parameter_size: str
    quantization_level: str
    parent_model: str = ""
    context_length: int = 0
    embedding_length: int = 0


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """One row of the list of installed models. `digest` is hex SHA-256 of the manifest's bytes, no prefix."""

    name: str
    modified_at: datetime
    size: int
    digest: str
    facts: ModelFacts
    capabilities: tuple[Capability, ...]


@dataclass(frozen=True, slots=True)
class ModelDetails:
    """Everything `show` tells about one model."""

    facts: ModelFacts
    capabilities: tuple[Capability, ...]
    modified_at: datetime
    modelfile: str
    template: str
    system: str
    parameters: str
    license: str
    messages: tuple[Message, ...]
    model_info: Mapping[str, Any]
    tensors: tuple[Mapping[str, Any], ...]
    requires: str = ""
    bundle: BundleFacts | None = None  # None: not converted yet


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """One row of the list of loaded models. `size_vram` is the part in an accelerator's memory."""

    name: str
    size: int
    size_vram: int
    digest: str
    facts: ModelFacts
    expires_at: datetime
    context_length: int
