"""`appliance doctor`: what this machine can do, and what stands in the way."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Literal

import rich_click as click

from appliance import __version__
from appliance.cli.client import Client, RequestFailed, Unreachable, server_url
from appliance.cli.formats import section
from appliance.config import Settings, load_settings
from appliance.errors import ApplianceError
from appliance.processor import read_cpuinfo

if TYPE_CHECKING:
    from appliance.doctor import Finding


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def command(as_json: bool) -> None:
    """Check this machine and installation.

    Looks at execution providers, processor, memory, disk, port and extras. A problem, something
    that keeps the server or a setting from working, makes the command fail.
    """
    settings = load_settings({}, os.environ)
    provider, findings = _examine(settings)
    problems = [finding for finding in findings if finding.state == "problem"]
    if as_json:
        report = {"version": __version__, "provider": provider, "findings": [asdict(finding) for finding in findings]}
        click.echo(json.dumps(report, indent=2))
    else:
        click.echo(report_text(findings), nl=False)
    if problems:
        names = ", ".join(f"{finding.section.lower()}: {finding.name}" for finding in problems)
        raise ApplianceError(f"{len(problems)} problem{'s' * (len(problems) > 1)} ({names})")


def report_text(findings: Iterable[Finding]) -> str:
    """The findings section by section; what is not as it should be is marked."""
    text = ""
    for title, found in groupby(findings, lambda finding: finding.section):
        rows = [(finding.name, _MARKS.get(finding.state, "") + finding.text) for finding in found]
        text += section(title, rows)
    return text


_MARKS = {"warning": "! ", "problem": "PROBLEM: "}


def _examine(settings: Settings) -> tuple[str | None, list[Finding]]:
    """The provider that models get, and all findings."""
    from appliance import doctor as look  # here, so that the other commands start without ONNX Runtime
    from appliance.engine.probe import probe_all

    probes = probe_all()
    url = server_url(settings, os.environ)
    return look.used_provider(probes, settings.provider), [
        *look.runtime(look.versions(look.RUNTIMES)),
        *look.providers(probes, settings.provider),
        *look.processor(read_cpuinfo(), settings),
        *look.memory(settings),
        *look.models_folder(settings.models),
        *look.server(settings, url, _who_answers(url)),
        *look.extras(),
    ]


def _who_answers(url: str) -> Literal["ours", "another", ""]:
    """Only this server knows /api/stats."""
    with Client(url) as client:
        try:
            client.call("GET", "/api/stats")
        except Unreachable:
            return ""
        except RequestFailed:
            return "another"
    return "ours"
