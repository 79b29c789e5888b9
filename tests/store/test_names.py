"""Model names: grammar, defaults, display, folding, sources."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import InvalidName
from appliance.store.names import (
    ModelName,
    Source,
    fold,
    is_cloud,
    parse_name,
    parse_reference,
    split_source,
)

LONG = "a" * 80


@pytest.mark.spec(76)
@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("mm", ("registry.ollama.ai", "library", "mm", "latest")),
        ("mm:tt", ("registry.ollama.ai", "library", "mm", "tt")),
        ("nn/mm", ("registry.ollama.ai", "nn", "mm", "latest")),
        ("hh/nn/mm", ("hh", "nn", "mm", "latest")),
        ("host:11434/nn/mm:tt", ("host:11434", "nn", "mm", "tt")),
        ("https://host:1/nn/mm:tt", ("host:1", "nn", "mm", "tt")),
        ("_h/_n/_m:_t", ("_h", "_n", "_m", "_t")),
        (f"{'h' * 350}/{LONG}/{LONG}:{LONG}", ("h" * 350, LONG, LONG, LONG)),
        ("mistral:7b-instruct-q4_0", ("registry.ollama.ai", "library", "mistral", "7b-instruct-q4_0")),
    ],
)
def test_valid_names(text: str, parts: tuple[str, ...]) -> None:
    assert parse_name(text).parts == parts


@pytest.mark.spec(76)
@pytest.mark.parametrize(
    "text",
    [
        "", ":", "/", ":tag", "m:", "/m", "n//m", "n/", "h/n/", "//", "h/n/m:", "-hh/nn/mm:tt", "hh/-nn/mm:tt",
        "hh/nn/-mm:tt", "hh/nn/mm:-tt", "host/name:space/model:tag", "a/b/c/d", "h/n.n/m", "m m", "mé", "m:t:u",
        ".", "..", "../m", "m:..", "../../etc/passwd", "h/../m", "a\x00b", "m\n", "m@sha256:abc", "http:///n/m",
        f"{LONG}a", f"m:{LONG}a", f"{LONG}a/m", f"{'h' * 351}/n/m", "\\m", "n\\m", " m",
    ],
)  # fmt: skip
def test_invalid_names(text: str) -> None:
    with pytest.raises(InvalidName, match=r"^invalid model name$"):
        parse_name(text)


@pytest.mark.spec(76)
@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("registry.ollama.ai/library/mistral:7b", "mistral:7b"),
        ("mistral", "mistral:latest"),
        ("apple/OpenELM", "apple/OpenELM:latest"),
        ("myhost/library/lips:code", "myhost/library/lips:code"),
        ("myhost/mynamespace/lips:code", "myhost/mynamespace/lips:code"),
    ],
)
def test_short_form(text: str, short: str) -> None:
    assert parse_name(text).short == short
    assert parse_name(parse_name(text).full) == parse_name(text)


def test_folding_takes_each_part_from_what_is_installed() -> None:
    installed = [parse_name("Apple/OpenELM:Base"), parse_name("llama3")]
    assert fold(parse_name("LLAMA3:LATEST"), installed) == parse_name("llama3:latest")
    assert fold(parse_name("apple/LLAMA3:base"), installed) == parse_name("Apple/llama3:Base")
    assert fold(parse_name("Other"), installed) == parse_name("Other")
    assert fold(parse_name("Other"), []) == parse_name("Other")


def test_folding_keeps_two_spellings_apart() -> None:
    installed = [parse_name("llama"), parse_name("LLAMA")]
    assert fold(parse_name("LLAMA"), installed) == parse_name("LLAMA")
    assert fold(parse_name("llama"), installed) == parse_name("llama")


@pytest.mark.spec(75)
@pytest.mark.parametrize(
    ("text", "base", "source"),
    [
        ("gpt-oss:20b:cloud", "gpt-oss:20b", Source.CLOUD),
        ("gpt-oss:20b-cloud", "gpt-oss:20b", Source.CLOUD),
        ("gpt-oss:20b:CLOUD", "gpt-oss:20b", Source.CLOUD),
        ("qwen3:cloud", "qwen3", Source.CLOUD),
        (" qwen3:8b:local ", "qwen3:8b", Source.LOCAL),
        ("my-cloud-model", "my-cloud-model", None),
        ("foo:bar-cloud/baz", "foo:bar-cloud/baz", None),
        ("gpt-oss:clod", "gpt-oss:clod", None),
        ("llama3.2", "llama3.2", None),
    ],
)
def test_source_suffixes(text: str, base: str, source: Source | None) -> None:
    assert split_source(text) == (base, source)
    assert is_cloud(text) is (source is Source.CLOUD)


@pytest.mark.spec(75)
def test_two_sources_or_none_at_all() -> None:
    with pytest.raises(InvalidName, match=r'^use either :local or :cloud, not both: "foo:cloud:local"$'):
        split_source("foo:cloud:local")
    with pytest.raises(InvalidName, match=r"model is required"):
        split_source("  ")
    assert not is_cloud("foo:cloud:local")


@pytest.mark.spec(75)
@pytest.mark.parametrize(
    ("text", "stub"),
    [
        ("x:cloud", "x:cloud"),
        ("x:8b:cloud", "x:8b-cloud"),
        ("x:8b-cloud", "x:8b-cloud"),
        ("h:1/n/x:cloud", "h:1/n/x:cloud"),
        ("x:8b:local", "x:8b"),
        ("x", "x:latest"),
    ],
)
def test_references_to_installed_names(text: str, stub: str) -> None:
    assert parse_reference(text).short == stub


part = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,30}", fullmatch=True)
plain = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,30}", fullmatch=True)


@pytest.mark.spec(76)
@given(part, plain, part, part)
def test_a_name_and_its_path_say_the_same(host: str, namespace: str, model: str, tag: str) -> None:
    name = ModelName(host, namespace, model, tag)
    path = Path("root").joinpath(*name.parts)
    assert ModelName(*path.relative_to("root").parts) == name
    assert parse_name(name.full) == name
    assert parse_name(name.short) == name


@given(st.text(alphabet=st.sampled_from("ab.:/\\-_~ \x00é%"), max_size=24))
def test_no_name_leaves_the_folder(text: str) -> None:
    try:
        name = parse_name(text)
    except InvalidName:
        return
    path = Path("/root/manifests").joinpath(*name.parts)
    assert path.resolve().is_relative_to("/root/manifests")
    assert len(path.relative_to("/root/manifests").parts) == 4
