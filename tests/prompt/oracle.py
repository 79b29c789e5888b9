"""Go's text/template as a program that stays open: `tests/prompt/golang`, built where Go is installed.

`python -m tests.prompt.oracle` writes what it says of the cases and the families there beside them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.prompt.conversations import CONVERSATIONS, THINKING, Wire, tools

FOLDER = Path(__file__).parent / "golang"
FAMILIES = {path.stem: path.read_text(encoding="utf-8").removesuffix("\n") for path in FOLDER.glob("families/*.gotmpl")}
CASES = json.loads((FOLDER / "cases.json").read_text(encoding="utf-8"))
TODAY = "2026-03-01"
INFILL = ("def add(", "    return c")
MARK = "⁂"  # where the answer begins


class Oracle:
    """Renders one case after the other; main.go says what a case is."""

    def __init__(self, program: Path) -> None:
        self._process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def render(self, case: Mapping[str, Any]) -> dict[str, str]:
        """`output`, or `error` if there was one."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps({"now": TODAY, **case}).encode() + b"\n")
        self._process.stdin.flush()
        answer: dict[str, str] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        """End the program."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


@contextmanager
def opened(folder: Path) -> Iterator[Oracle | None]:
    """The program, compiled into `folder`; None without Go."""
    go = shutil.which("go")
    if not go:
        yield None
        return
    program = folder / "oracle"
    environment = {"GOCACHE": str(folder / "cache"), "GOFLAGS": "-mod=mod", "GOTOOLCHAIN": "local"}
    subprocess.run([go, "build", "-o", program, "."], cwd=FOLDER, env=os.environ | environment, check=True)
    oracle = Oracle(program)
    try:
        yield oracle
    finally:
        oracle.close()


def of_cases(oracle: Oracle) -> list[dict[str, str]]:
    """What Go makes of each case."""
    return [oracle.render({**case, "data": CASES["data"][case["data"]]}) for case in CASES["cases"]]


def of_families(oracle: Oracle) -> dict[str, dict[str, str]]:
    """The prompts of each family's template."""
    return {family: dict(prompts(oracle, family)) for family in sorted(FAMILIES)}


def prompts(oracle: Oracle, family: str) -> Iterator[tuple[str, str]]:
    """The name of each conversation that the family's kind of template is for, and its prompt."""
    template = FAMILIES[family]
    if family.endswith("-infill"):
        prompt, suffix = INFILL
        yield "infill", rendered(oracle, template, data={"Prompt": prompt, "Suffix": suffix, "Response": ""})
    if ".Messages" in template:
        for name, turns in CONVERSATIONS.items():
            values = {"messages": turns, "tools": tools(name), "data": fields(name, turns)}
            yield name, rendered(oracle, template, **values)
    elif family.endswith("-exchanges"):
        for name, turns in CONVERSATIONS.items():
            if not tools(name):
                told = [rendered(oracle, template, data=exchange) for exchange in exchanges(turns)]
                yield name, "".join(told).partition(MARK)[0]


def fields(name: str, turns: list[Wire]) -> Wire:
    """What a template knows beside the messages and tools."""
    think = THINKING.get(name)
    level = think if isinstance(think, str) else "medium" if think else ""
    system = "\n\n".join(turn["content"] for turn in turns if turn["role"] == "system")
    thinking = {"Think": bool(think), "ThinkLevel": level, "IsThinkSet": think is not None}
    return {"System": system, "Response": "", **thinking}


def exchanges(turns: list[Wire]) -> list[Wire]:
    """The conversation cut before every question but the first; the last answer ends with the mark."""
    found = [{"System": "", "Prompt": "", "Response": ""}]
    for turn in turns:
        if found[-1]["Response"]:
            found.append({"System": "", "Prompt": "", "Response": ""})
        found[-1][{"system": "System", "user": "Prompt", "assistant": "Response"}[turn["role"]]] = turn["content"]
    found[-1]["Response"] += MARK
    return found


def rendered(oracle: Oracle, template: str, **case: Any) -> str:
    """The output; there must be no error."""
    answer = oracle.render({"template": template, **case})
    assert "error" not in answer, answer
    return answer["output"]


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch, opened(Path(scratch)) as go:
        assert go, "Go is not installed"
        _write(FOLDER / "results.json", of_cases(go))
        _write(FOLDER / "families.json", of_families(go))
