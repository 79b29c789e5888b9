"""The bodies of the Ollama API. Field order is key order; a field with a default is left out when it has it.

The structs are at once the decoder's declarations (api.decode), the encoder's, and the OpenAPI document's. What a
client must send has no default, though its absence is never a decoding error: Go has zero values.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from msgspec import Meta, Struct, field

from api.values import keep_alive_s, think
from appliance.core import Think


class Wire(Struct, omit_defaults=True):
    """Base of all."""


KeepAlive = Annotated[
    # a string is only ever read, never held: decoding makes seconds of it
    float | str | None,
    Meta(description='Seconds, or a duration such as "5m"; negative is for ever', extra={"unmarshal": keep_alive_s}),
]
ThinkField = Annotated[Think | None, Meta(extra={"unmarshal": think})]
Image = Annotated[bytes, Meta(description="Base64", extra={"go": "api.ImageData"})]
Format = Annotated[Any, Meta(description='"json", or a JSON Schema')]
Options = Annotated[dict[str, Any], Meta(description="Option names with their values")]
OldName = Annotated[str, Meta(description="Deprecated spelling of `model`")]


class ToolCallFunction(Wire):
    """What is called, and with what."""

    index: int
    name: str
    arguments: Annotated[dict[str, Any], Meta(extra={"go": "api.ToolCallFunctionArguments"})]


class ToolCall(Wire, kw_only=True):
    """A call that the model made."""

    id: str = ""
    function: ToolCallFunction


class Message(Wire):
    """One turn of a conversation."""

    go_alias: ClassVar[str] = "Alias"

    role: str
    content: str
    thinking: str = ""
    images: list[Image] = []
    tool_calls: list[ToolCall] = []
    tool_name: str = ""
    tool_call_id: str = ""


class ToolProperty(Wire):
    """One parameter of a tool: the keywords of JSON Schema that templates see, the others are dropped."""

    any_of: list[ToolProperty] = field(name="anyOf", default_factory=list)
    type: str | list[str] = ""
    items: Any = None
    description: str = ""
    enum: list[Any] = []
    properties: dict[str, ToolProperty] = {}
    required: list[str] = []


class ToolFunctionParameters(Wire, kw_only=True):
    """The parameters of a tool."""

    type: str
    defs: Any = field(name="$defs", default=None)
    items: Any = None
    required: list[str] = []
    properties: dict[str, ToolProperty]


class ToolFunction(Wire, kw_only=True):
    """A function that the model may call."""

    name: str
    description: str = ""
    parameters: ToolFunctionParameters


class Tool(Wire, kw_only=True):
    """A tool that the model may call."""

    type: str
    items: Any = None
    function: ToolFunction


class InferenceRequest(Wire):
    """What generate and chat have in common."""

    model: str
    stream: bool | None = None
    format: Format = None
    keep_alive: KeepAlive = None
    options: Options = {}
    think: ThinkField = None
    truncate: bool | None = None
    shift: bool | None = None
    logprobs: bool = False
    top_logprobs: int = 0
    debug_render_only: bool = field(name="_debug_render_only", default=False)


class GenerateRequest(InferenceRequest):
    """POST /api/generate."""

    prompt: str = ""
    suffix: str = ""
    system: str = ""
    template: str = ""
    context: list[int] = []
    raw: bool = False
    images: list[Image] = []


class ChatRequest(InferenceRequest):
    """POST /api/chat."""

    messages: list[Message] = []
    tools: Annotated[list[Tool], Meta(extra={"go": "api.Tools"})] = []


class TopLogprob(Wire):
    """A token, its natural-log probability, and its bytes in UTF-8."""

    token: str
    logprob: float
    bytes: list[int] = []


class Logprob(Wire):
    """A generated token and its best alternatives."""

    token: str
    logprob: float
    bytes: list[int] = []
    top_logprobs: list[TopLogprob] = []


class DebugInfo(Wire):
    """What `_debug_render_only` asks for."""

    rendered_template: str
    image_count: int = 0


class GenerateResponse(Wire, kw_only=True):
    """A line of a generate stream, or all of it. Durations are nanoseconds."""

    model: str
    created_at: str
    response: str
    thinking: str = ""
    done: bool
    done_reason: str = ""
    context: list[int] = []
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0
    prompt_eval_duration: int = 0
    eval_count: int = 0
    eval_duration: int = 0
    tool_calls: list[ToolCall] = []
    debug_info: DebugInfo | None = field(name="_debug_info", default=None)
    logprobs: list[Logprob] = []


class ChatResponse(Wire, kw_only=True):
    """A line of a chat stream, or all of it. Durations are nanoseconds."""

    model: str
    created_at: str
    message: Message
    done: bool
    done_reason: str = ""
    debug_info: DebugInfo | None = field(name="_debug_info", default=None)
    logprobs: list[Logprob] = []
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0
    prompt_eval_duration: int = 0
    eval_count: int = 0
    eval_duration: int = 0


class Details(Wire):
    """A model's format and family."""

    parent_model: str
    format: str
    family: str
    families: list[str] | None
    parameter_size: str
    quantization_level: str
    context_length: int = 0
    embedding_length: int = 0


class InstalledModel(Wire):
    """A row of GET /api/tags."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: Details
    capabilities: list[str] = []


class ListResponse(Wire):
    """GET /api/tags: newest first."""

    models: list[InstalledModel]


class RunningModel(Wire):
    """A row of GET /api/ps."""

    name: str
    model: str
    size: int
    digest: str
    details: Details
    expires_at: str
    size_vram: int
    context_length: int


class ProcessResponse(Wire):
    """GET /api/ps: the one that stays longest first."""

    models: list[RunningModel]


class ShowRequest(Wire):
    """POST /api/show."""

    model: str
    name: OldName = ""
    verbose: bool = False
    system: str = ""
    template: Annotated[str, Meta(description="Ignored")] = ""
    options: Options = {}


class Tensor(Wire):
    """A tensor of the model's file."""

    name: str
    type: str
    shape: list[int]


class Fidelity(Wire):
    """How close a bundle comes to its source: negative log-likelihood in nats a token, share of same first choices."""

    tokens: int
    nll: float
    source_nll: float | None = None
    top1: float | None = None


class Likeness(Wire):
    """How close an encoder's bundle comes to its source: cosines, or the error of scores in standard deviations."""

    texts: int
    cosine: float | None = None
    least_cosine: float | None = None
    score_error: float | None = None


class BundleFacts(Wire, kw_only=True):
    """What a model was converted to. Not part of Ollama's API."""

    recipe: str
    kv_cache_type: str = ""
    size: int
    fidelity: Fidelity | None = None
    likeness: Likeness | None = None


class ShowResponse(Wire, kw_only=True):
    """POST /api/show."""

    license: str = ""
    modelfile: str = ""
    parameters: str = ""
    template: str = ""
    system: str = ""
    details: Details
    messages: list[Message] = []
    model_info: dict[str, Any]
    tensors: list[Tensor] = []
    capabilities: list[str] = []
    modified_at: str
    requires: str = ""
    bundle: BundleFacts | None = None


class CopyRequest(Wire):
    """POST /api/copy."""

    source: str
    destination: str


class DeleteRequest(Wire):
    """DELETE /api/delete."""

    model: str
    name: OldName = ""


class CreateRequest(Wire):
    """POST /api/create."""

    model: str
    name: OldName = ""
    from_: str = field(name="from", default="")
    files: dict[str, str] = {}
    adapters: dict[str, str] = {}
    draft_files: dict[str, str] = {}
    template: str = ""
    system: str = ""
    license: str | list[str] = ""
    parameters: Options = {}
    messages: list[Message] = []
    quantize: str = ""
    quantization: Annotated[str, Meta(description="Deprecated spelling of `quantize`")] = ""
    draft_quantize: str = ""
    renderer: str = ""
    parser: str = ""
    requires: str = ""
    remote_host: str = ""
    info: dict[str, Any] = {}
    stream: bool | None = None


class PullRequest(Wire):
    """POST /api/pull."""

    model: str
    name: OldName = ""
    insecure: bool = False
    username: Annotated[str, Meta(description="Ignored")] = ""
    password: Annotated[str, Meta(description="Ignored")] = ""
    stream: bool | None = None


class PushRequest(PullRequest):
    """POST /api/push."""


class ProgressResponse(Wire):
    """A line of a progress stream, or its last."""

    status: str
    digest: str = ""
    total: int = 0
    completed: int = 0


class VersionResponse(Wire):
    """GET /api/version."""

    version: str


class CloudStatus(Wire):
    """Whether remote models can be reached; on this server never."""

    disabled: bool
    source: str


class StatusResponse(Wire):
    """GET /api/status."""

    cloud: CloudStatus


class RecommendationsResponse(Wire):
    """GET /api/experimental/model-recommendations."""

    recommendations: list[dict[str, Any]]
