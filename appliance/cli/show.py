"""`appliance show`: what a model is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import rich_click as click

from appliance.cli.client import connect
from appliance.cli.completion import model_names
from appliance.cli.formats import cell_width, human_count, section
from appliance.errors import ApplianceError

_PREVIEW_LINES = 2
_ARRAY_WIDTH = 10


@click.command("show")
@click.argument("model", shell_complete=model_names)
@click.option("--license", "part", flag_value="license", multiple=True, help="Show the license.")
@click.option("--modelfile", "part", flag_value="modelfile", multiple=True, help="Show the Modelfile.")
@click.option("--parameters", "part", flag_value="parameters", multiple=True, help="Show the parameters.")
@click.option("--template", "part", flag_value="template", multiple=True, help="Show the template.")
@click.option("--system", "part", flag_value="system", multiple=True, help="Show the system message.")
@click.option("-v", "--verbose", is_flag=True, help="Show all metadata and tensors.")
def command(model: str, part: tuple[str, ...], verbose: bool) -> None:
    """Show what MODEL is, or one part of it."""
    if len(part) > 1:
        raise ApplianceError(
            "only one of '--license', '--modelfile', '--parameters', '--system', or '--template' can be specified"
        )
    with connect() as client:
        facts = client.call("POST", "/api/show", {"model": model, "verbose": verbose})
    if part:
        click.echo(facts.get(part[0], ""))
    else:
        click.echo(show_text(facts, verbose), nl=False)


def show_text(facts: Mapping[str, Any], verbose: bool = False) -> str:
    """All sections of an /api/show answer; Metadata and Tensors only when verbose."""
    return "".join(section(title, rows) for title, rows in _sections(facts, verbose) if rows)


_Rows = list[tuple[str, ...]]


def _sections(facts: Mapping[str, Any], verbose: bool) -> Iterator[tuple[str, _Rows]]:
    yield "Model", _model(facts)
    yield "Capabilities", [(name,) for name in facts.get("capabilities") or ()]
    yield "Projector", _projector(facts.get("projector_info") or {})
    yield "Parameters", [tuple(line.split()) for line in facts.get("parameters", "").splitlines() if line]
    if verbose:
        info = facts.get("model_info") or {}
        yield "Metadata", [(key, _value(info[key])) for key in sorted(info)]
        yield (
            "Tensors",
            [
                (tensor["name"], tensor["type"], "[" + " ".join(map(str, tensor["shape"])) + "]")
                for tensor in facts.get("tensors") or ()
            ],
        )
    yield "System", _preview(facts.get("system", ""))
    yield "License", _preview(facts.get("license", ""))


def _model(facts: Mapping[str, Any]) -> _Rows:
    details, info = facts.get("details") or {}, facts.get("model_info")
    rows: _Rows = []
    if info is None:
        rows += [("architecture", details.get("family", "")), ("parameters", details.get("parameter_size", ""))]
    else:
        architecture = info.get("general.architecture", "")
        count = info.get("general.parameter_count")
        size = details.get("parameter_size") or (human_count(int(count)) if count is not None else "")
        rows += [("architecture", architecture)] if architecture else []
        rows += [("parameters", size)] if size else []
        rows += [
            (label, str(int(info[key])))
            for label, key in (
                ("context length", f"{architecture}.context_length"),
                ("embedding length", f"{architecture}.embedding_length"),
            )
            if key in info
        ]
    rows.append(("quantization", details.get("quantization_level", "")))
    if requires := facts.get("requires"):
        rows.append(("requires", requires))
    return rows + _bundle(facts.get("bundle") or {})


def _bundle(bundle: Mapping[str, Any]) -> _Rows:
    """What the model was converted to; a server of Ollama's says nothing of it."""
    rows: _Rows = [
        (label, bundle[key]) for label, key in (("recipe", "recipe"), ("kv cache", "kv_cache_type")) if key in bundle
    ]
    if found := bundle.get("fidelity"):
        nll, source = found["nll"], found.get("source_nll")
        text = f"NLL {nll:.4f}"
        if source is not None:
            text += f" (source {source:.4f}, {nll - source:+.4f}), top-1 {100 * found['top1']:.1f} %"
        rows.append(("fidelity", text))
    if alike := bundle.get("likeness"):
        rows.append(("fidelity", _likeness(alike)))
    return rows


def _likeness(alike: Mapping[str, float]) -> str:
    if "cosine" in alike:
        return f"cosine {alike['cosine']:.4f} (at least {alike['least_cosine']:.4f})"
    return f"scores off by {alike['score_error']:.3f} standard deviations"


def _projector(info: Mapping[str, Any]) -> _Rows:
    if not info:
        return []
    architecture = info["general.architecture"]
    return [
        ("architecture", architecture),
        ("parameters", human_count(int(info["general.parameter_count"]))),
        ("embedding length", str(int(info[f"{architecture}.vision.embedding_length"]))),
        ("dimensions", str(int(info[f"{architecture}.vision.projection_dim"]))),
    ]


def _preview(text: str) -> _Rows:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    shown: _Rows = [(line,) for line in lines[:_PREVIEW_LINES]]
    return [*shown, ("...",)] if len(lines) > _PREVIEW_LINES else shown


def _value(value: Any) -> str:
    """A metadata value as Go prints it; of an array only the first few items."""
    if isinstance(value, list):
        return _array(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        from appliance.prompt.gotemplate.values import show_float

        return show_float(float(value))
    return "<nil>" if value is None else str(value)


def _array(values: list[Any]) -> str:
    shown: list[str] = []
    width = 1  # the bracket
    for value in map(_value, values):
        width += cell_width(value) + (2 if shown else 0)
        if shown and width > _ARRAY_WIDTH:
            break
        shown.append(value)
    more = len(values) - len(shown)
    return f"[{' '.join(shown)} ...+{more} more]" if more else f"[{' '.join(shown)}]"
