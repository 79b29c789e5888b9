"""Strategies for requests: out of the OpenAPI document, out of the wire structs, and out of nothing but bytes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
import schemathesis
from hypothesis import strategies as st
from schemathesis import GenerationMode

from api.app import ROUTES
from appliance.store.parameters import PARAMETERS
from scripts.fuzz.client import Request
from scripts.fuzz.models import AT, TINY, VICTIM

OPTIONS = sorted({*PARAMETERS, "mirostat", "recipe", "nope"})
NAMES = (
    *("", " ", ".", "..", "../../etc/passwd", "/etc/passwd", "a/b/c/d/e", "a" * 400, "tiny:", ":tag", "tiny:.."),
    *("..%2f..%2fetc", "nul\x00l", "tiny\n", "~/.ssh/id", "tiny:cloud", "x:8b-cloud", "tiny:local", "a:cloud:local"),
    *("café", "\ud800", "-hh/nn/mm:tt", "sha256:0", "http://tiny", "http://[::1/x/y", "library/tiny", "TINY", "nope"),
    *("localhost:1/n/m", "http://127.0.0.1:1/n/m:t", "{{.}}", "%s%n", "𝓽𝓲𝓷𝔂"),
)
DIGESTS = ("sha256:" + "0" * 64, "sha256-" + "f" * 64, "sha256:zz", "../../x", "", "sha512:" + "0" * 128)
FILES = (
    "../x.gguf",
    "/abs.gguf",
    "a/../../b.gguf",
    "",
    ".",
    "x\x00.gguf",
    "ok.gguf",
    "\\\\h\\x.gguf",
    "model.safetensors",
)
TEMPLATES = (
    *(
        "{{ .Prompt",
        "{{ if }}",
        "{{ .Prompt }}",
        "{{ nofunc }}",
        "{{ range $i := .X }}{{ end }}",
        "{{ index .Messages 9 }}",
    ),
    *(
        "{{ .Response }}",
        '{{ define "a" }}{{ template "a" . }}{{ end }}{{ template "a" . }}',
        "{{ len 3 }}",
        "{{ slice 1 }}",
    ),
)
ROLES = ("user", "system", "assistant", "tool", "USER", "", "\x00", "developer")
STRUCTS: dict[tuple[str, str], type[msgspec.Struct]] = {
    (method, path): route.dto.model_type  # type: ignore[attr-defined]
    for route in ROUTES
    if hasattr(route.dto, "model_type")
    for method in route.http_methods
    for path in route.paths
}
PATHS = sorted({path.partition("{")[0] for route in ROUTES for path in route.paths} | {"/openapi.json"})

HOSTILE = (
    *(b'{"model":"tiny","keep_alive":1e999999}', b'{"model":"tiny","top_logprobs":' + b"9" * 5000 + b"}"),
    *(b'{"model":"tiny"}\n{"model":"nope"}\n', b"\xef\xbb\xbf{}", b'{"model":"\xff\xfe\xc0\x80"}', b"NaN", b"null"),
    *(b'{"model":"a","model":"tiny","MODEL":null}', b'"' + b"a" * 100_000, b"\x1f\x8b\x08\x00", b"-", b"\xff\xfe{\x00"),
)
HEADER_NAMES = (
    *("content-type", "accept", "user-agent", "origin", "host", "authorization", "expect", "range", "content-encoding"),
    *("cookie", "x-forwarded-for", "if-none-match", "upgrade", "te", "access-control-request-method"),
)
HEADER_VALUES = (
    *("application/json", "text/plain; charset=x", "http://localhost:3000", "http://evil.example", "evil.example"),
    *("null", "100-continue", "bytes=0-1", "gzip", "websocket", "*/*", "GitHubCopilotChat/1", "", "[::1", "a" * 5000),
)

huge = st.sampled_from([2**31, 2**63, -(2**63) - 1, 10**400, 1e308, -1e308, 5e-324])
scalars = st.one_of(
    *(st.none(), st.booleans(), st.integers(-3, 30), st.floats(allow_nan=False, allow_infinity=False), huge),
    *(
        st.text(max_size=8),
        st.sampled_from(["", "x", "1", "\x00", "\ud83d", "json", "high", "5m", "-1", "aGk=", "user"]),
    ),
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)


def some(*fields: tuple[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """An object that has some of the fields."""
    return st.fixed_dictionaries({}, optional=dict(fields))


calls = some(
    ("id", scalars), ("function", some(("name", scalars), ("arguments", values), ("index", scalars)) | scalars)
)
messages = some(
    ("role", st.sampled_from(ROLES)),
    ("content", st.text(max_size=20) | scalars),
    ("thinking", scalars),
    ("images", st.lists(st.sampled_from(["aGk=", "iVBORw0KGgo=", "!"]) | scalars, max_size=2)),
    ("tool_calls", st.lists(calls, max_size=2)),
    ("tool_name", scalars),
)
schemas = st.recursive(
    some(("type", st.sampled_from(["object", "string", "integer", "array", "null", "x"]) | scalars), ("enum", values)),
    lambda inner: some(
        ("type", st.sampled_from(["object", "array"])),
        ("properties", st.dictionaries(st.text(max_size=3), inner, max_size=3)),
        ("items", inner),
        ("anyOf", st.lists(inner, max_size=2)),
        ("required", st.lists(st.text(max_size=3), max_size=2)),
        ("pattern", st.sampled_from(["a+", "(", "^.{1,3}$"])),
        ("$ref", st.sampled_from(["#", "#/x", "http://127.0.0.1:1/"])),
    ),
    max_leaves=4,
)
functions = some(("name", scalars), ("description", scalars), ("parameters", schemas | values))
tools = some(("type", st.just("function") | scalars), ("function", functions | scalars))
names = st.sampled_from([TINY, VICTIM]) | st.sampled_from([TINY, VICTIM, *NAMES]) | st.text(max_size=10)
digests = st.dictionaries(st.sampled_from(FILES), st.sampled_from(DIGESTS) | scalars, max_size=2)
options = st.dictionaries(st.sampled_from(OPTIONS), st.integers(-2, 40) | values, max_size=3)
NEARLY: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(("model", "from", "source", "destination"), names),
    **dict.fromkeys(("options", "parameters"), options),
    **dict.fromkeys(("files", "adapters", "draft_files"), digests),
    "messages": st.lists(messages, max_size=3),
    "tools": st.lists(tools, max_size=2),
    "format": st.just("json") | schemas,
    "template": st.sampled_from(TEMPLATES),
    "context": st.lists(st.integers(-1, 300), max_size=4),
    "input": st.text(max_size=9) | st.lists(st.text(max_size=9), max_size=3),
    "documents": st.lists(st.text(max_size=9), max_size=3),
    "images": st.lists(st.sampled_from(["aGk=", "iVBORw0KGgo="]), max_size=2),
    "quantize": st.sampled_from(["q4_K_M", "q8_0", "F16", "q5_0"]),
    "info": st.dictionaries(
        st.sampled_from(["model_family", "context_length", "capabilities", "x"]), values, max_size=2
    ),
    **dict.fromkeys(
        ("stream", "raw", "verbose", "insecure", "logprobs", "truncate", "shift"), st.booleans() | st.none()
    ),
    **dict.fromkeys(("prompt", "system", "suffix", "query", "license", "renderer", "parser"), st.text(max_size=20)),
    **dict.fromkeys(("dimensions", "top_n", "top_logprobs"), st.integers(-1, 30)),
    "keep_alive": st.sampled_from([0, "0", "5m", 1, -1, "1ms", "5", None]),
    "think": st.sampled_from([True, False, "high", "max", None]),
    "_debug_render_only": st.booleans(),
    **dict.fromkeys(("name", "remote_host", "draft_quantize", "quantization", "requires"), st.just("")),
}


@st.composite
def nearly(draw: st.DrawFn, method: str, path: str) -> dict[str, Any]:
    """A body for an endpoint: each of its fields missing, nearly right or wrong. What is right ends soon."""
    fields = {name: NEARLY.get(name, scalars) for name in STRUCTS[method, path].__struct_encode_fields__}
    wrong = draw(st.sampled_from((0, 1, 4)))  # fields in ten
    body = {
        name: draw(values if draw(st.integers(0, 9)) < wrong else right)
        for name, right in fields.items()
        if name == "model" or draw(st.integers(0, 9)) < 4
    }
    if body.get("model") == TINY:
        body["model"] = VICTIM if method == "DELETE" else AT.get(path, TINY)
    return body


def as_json(value: Any) -> bytes:
    """JSON, with numbers of any length and half characters."""
    return json.dumps(value, default=str).encode()


@st.composite
def damaged(draw: st.DrawFn, body: bytes) -> bytes:
    """A piece cut out, and bytes put in."""
    start, end = sorted((draw(st.integers(0, len(body))), draw(st.integers(0, len(body)))))
    return body[:start] + draw(st.binary(max_size=4)) + body[end:]


hostile = st.one_of(
    st.binary(max_size=60),
    st.sampled_from([b"[", b'{"a":', b'{"messages":[', b'{"options":{"a":']).flatmap(
        lambda piece: st.sampled_from([10, 300, 2000, 20_000]).map(lambda times: piece * times)
    ),
    st.sampled_from(HOSTILE),
)


@st.composite
def bodies(draw: st.DrawFn) -> Request:
    """A JSON endpoint with a body: nearly right, damaged, or hostile."""
    method, path = draw(st.sampled_from(sorted(STRUCTS)))
    body = as_json(draw(nearly(method, path)))
    match draw(st.integers(0, 9)):
        case 0 | 1:
            body = draw(damaged(body))
        case 2:
            body = draw(hostile)
    return Request(method, path, body, chunked=draw(st.integers(0, 9)) == 0)


letters = st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0"), max_size=20)
headers = st.lists(st.tuples(st.sampled_from(HEADER_NAMES), st.sampled_from(HEADER_VALUES) | letters), max_size=3).map(
    tuple
)
segments = st.sampled_from(
    ["api", "tags", "blobs", "..", ".", "%2e%2e", "%2f", "%00", "%ff", "%", "", "v1", "models", DIGESTS[0], "a" * 3000]
) | st.text(max_size=6).map(lambda text: quote(text, errors="replace"))
paths = st.one_of(
    st.sampled_from(PATHS),
    st.tuples(st.sampled_from(PATHS), st.lists(segments, max_size=3)).map(lambda parts: parts[0] + "/".join(parts[1])),
    st.lists(segments, max_size=5).map(lambda parts: "/" + "/".join(parts)),
)
queries = st.sampled_from(["", "", "?", "?a=b", "?x=%00", "?" + "a" * 2000, "#x", ";x"])
methods = st.sampled_from(["GET", "POST", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "get"])
odd = st.builds(
    lambda method, path, query, body, fields: Request(method, path + query, body, fields),
    *(methods, paths, queries, hostile | st.just(b'{"model":"victim"}'), headers),
)
raw = st.integers(0, 9).flatmap(lambda draw: odd if draw < 3 else bodies())
"""Three in ten are odd altogether, the others have an odd body."""


def shared(references: Sequence[str]) -> st.SearchStrategy[Request]:
    """What clients ask of a registry: what there is, in pieces too, and what is not there.

    `references` are the digests of a model's manifest and of its blobs.
    """
    model = f"/v2/library/{TINY}"
    kinds = ("manifests", "blobs")
    there = [f"{model}/tags/list", f"{model}/manifests/latest", *(f"{model}/blobs/{each}" for each in references)]
    names = st.sampled_from(["library", TINY, VICTIM, *kinds, "tags", "list", *references])
    others = st.builds("/v2/library/{}/{}/{}".format, names, st.sampled_from(kinds), names | segments)
    wrong = st.lists(names | segments, max_size=5).map(lambda parts: "/".join(("/v2", *parts)))
    numbers = st.sampled_from(["", "0", "1", "99", "999999999", "9" * 30, "-1", "x"])
    ranges = st.lists(st.builds("{}-{}".format, numbers, numbers), min_size=1, max_size=2)
    fields = st.one_of(headers, ranges.map(lambda spans: (("range", "bytes=" + ",".join(spans)),)))
    wanted = st.builds(Request, st.sampled_from(["GET", "GET", "HEAD"]), st.sampled_from(there), headers=fields)
    return wanted | st.builds(Request, st.just("GET") | methods, others | wrong, headers=fields)


def described(document: dict[str, Any]) -> st.SearchStrategy[Request]:
    """What schemathesis makes of the OpenAPI document: every second request right, the others wrong."""
    schema = schemathesis.openapi.from_dict(document)
    operations = [found.ok() for found in schema.get_all_operations()]
    modes = list(GenerationMode)
    cases = st.tuples(st.sampled_from(operations), st.sampled_from(modes)).flatmap(
        lambda chosen: chosen[0].as_strategy(generation_mode=chosen[1])
    )
    return st.builds(_request, cases, st.booleans())


def _request(case: Any, known_model: bool) -> Request:
    """The request of a schemathesis case, in every second one about a model that there is."""
    sent = case.as_transport_kwargs(base_url="http://localhost")
    body = sent["json"] if "json" in sent else sent.get("data") or b""
    if "json" in sent or isinstance(body, dict):
        if known_model and isinstance(body, dict) and "model" in body:
            body = body | {"model": VICTIM if sent["method"] == "DELETE" else AT.get(case.path, TINY)}
        body = as_json(body)
    elif not isinstance(body, bytes):
        body = str(body).encode("utf-8", "replace")
    query = urlencode(sent.get("params") or {}, doseq=True)
    target = sent["url"].removeprefix("http://localhost") or "/"
    fields = ((str(name), _one_line(value)) for name, value in (sent.get("headers") or {}).items())
    own = tuple(field for field in fields if not field[0].lower().startswith(_NOT_ITS_OWN))
    return Request(sent["method"], target + (f"?{query}" if query else ""), body, own)


_NOT_ITS_OWN = ("content-length", "transfer-encoding", "connection", "user-agent", "accept-encoding", "x-schemathesis")


def _one_line(value: Any) -> str:
    return str(value).replace("\r", " ").replace("\n", " ")
