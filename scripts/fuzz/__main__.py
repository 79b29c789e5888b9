"""The command: `scripts/fuzz/run --help`."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import hypothesis
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st

from scripts.fuzz.checks import complaints
from scripts.fuzz.client import Hang, Request, exchange
from scripts.fuzz.models import TINY, Model, write_models
from scripts.fuzz.strategies import described, raw, shared
from tests.server.daemon import Server

LIMIT_S = 60.0
"""For an answer. The longest that is right takes a second or two; the rest is for a machine that has much to do."""
CODE_FOLDER = Path(__file__).resolve().parents[2]
CARE_EVERY = 50
ENVIRONMENT = {"OLLAMA_NUM_PARALLEL": "2", "OLLAMA_MAX_LOADED_MODELS": "4", "APPLIANCE_THREADS": "1"}
ENVIRONMENT["APPLIANCE_OFFLINE"] = "1"  # made-up names are asked of no registry


@dataclass
class Report:
    """What was sent and what came back. `faults` are requests with what is wrong with their answers."""

    statuses: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")

    @property
    def sent(self) -> int:
        """All requests."""
        return self.statuses.total()


class Fuzzer:
    """A server, and what is sent to it."""

    def __init__(self, server: Server, models: Mapping[str, Model]) -> None:
        self.report = Report()
        self._server = server
        self._models = models
        self._places = (server.models.parent, CODE_FOLDER)
        self._digests: dict[str, str] = {}

    def send(self, request: Request) -> None:
        """One request, and every check on its answer."""
        if self.report.sent % CARE_EVERY == 0:
            self.restore()
        try:
            answer = exchange(self._server.port, request, LIMIT_S)
        except (Hang, OSError) as error:
            self.report.statuses[0] += 1
            self.report.faults.append(f"{error}: {request}")
            return
        self.report.statuses[answer.status] += 1
        self.report.slowest = max(self.report.slowest, (answer.seconds, str(request)))
        for complaint in complaints(request, answer, self._places):
            self.report.faults.append(f"{complaint}: {request} -> {answer.status} {answer.text[:300]!r}")

    def restore(self) -> None:
        """Put back the models that requests have removed or changed, and remove those that they made."""
        found = self._installed()
        for name in found.keys() - {f"{name}:latest" for name in self._models}:
            self._server.client.request("DELETE", "/api/delete", json={"model": name})
        for name, model in self._models.items():
            if found.get(f"{name}:latest", "") != self._digests.get(name):
                self._server.create(name, model.file, **model.more)
                self._digests[name] = self._installed()[f"{name}:latest"]

    def _installed(self) -> dict[str, str]:
        """The digest of every model by its name."""
        models = self._server.client.get("/api/tags").json()["models"]
        return {model["name"]: model["digest"] for model in models}

    def finish(self) -> None:
        """After all that, the server is as it was."""
        self.restore()
        answer = self._server.client.post("/api/generate", json={"model": TINY, "prompt": "hello", "stream": False})
        if answer.status_code != 200 or not answer.json()["done"]:
            self.report.faults.append(f"it no longer answers: {answer.status_code} {answer.text}")
        held = [
            model["name"]
            for model in self._server.client.get("/api/stats").json()["models"]
            if model["slots"]["busy"] or model["waiting"]
        ]
        if held:
            self.report.faults.append(f"slots of {held} are still held")
        if "unexpected error" in (log := self._server.log.read_text(errors="replace")):
            self.report.faults.append(f"the log tells of a defect: {log[log.index('unexpected error') :][:2000]}")


def fuzz(requests: int, seed: int, folder: Path, share: bool = False) -> Report:
    """Send as many requests to a server of its own, whose files lie in `folder`."""
    server = Server(folder / "models", HOME=str(folder), APPLIANCE_SHARE=str(share), **ENVIRONMENT)
    server.start()
    try:
        fuzzer = Fuzzer(server, write_models(folder))
        fuzzer.restore()
        strategies = [described(server.client.get("/openapi.json").json()), raw]
        if share:
            strategies.append(shared(_references(server)))
        for number, strategy in enumerate(strategies):
            _play(fuzzer, strategy, requests // len(strategies), seed + number)
        fuzzer.finish()
    finally:
        server.stop()
    return fuzzer.report


def _references(server: Server) -> list[str]:
    """The digests of a model's manifest and of its blobs."""
    answer = server.client.get(f"/v2/library/{TINY}/manifests/latest")
    manifest = answer.json()
    blobs = [layer["digest"] for layer in (manifest["config"], *manifest["layers"])]
    return [answer.headers["docker-content-digest"], *blobs]


def _play(fuzzer: Fuzzer, strategy: st.SearchStrategy[Request], requests: int, seed: int) -> None:
    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=requests,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(strategy)
    def play(request: Request) -> None:
        fuzzer.send(request)

    play()


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/fuzz/run", description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000, help="how many (10000)")
    parser.add_argument("--seed", type=int, default=1, help="the same number makes the same requests (1)")
    parser.add_argument("--share", action="store_true", help="to a server that shares its models, as a registry too")
    arguments = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        report = fuzz(arguments.requests, arguments.seed, Path(folder), arguments.share)
    print(f"{report.sent} requests in {time.monotonic() - start:.0f} s")
    print(", ".join(f"{status or 'no answer'}: {count}" for status, count in sorted(report.statuses.items())))
    print(f"slowest: {report.slowest[0]:.2f} s, {report.slowest[1]}")
    for fault in report.faults:
        print(f"FAULT {fault}")
    sys.exit(bool(report.faults))


if __name__ == "__main__":
    main()
