"""Go templates against Go's own text/template: recorded renderings, and where Go is installed, live ones.

Recorded with Go 1.19. What newer versions added (range over an integer, `else with`) is in test_gotemplate.py, and
so is one error text that they changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings

from appliance.errors import InvalidTemplate
from appliance.prompt.chat import GoPrompt
from appliance.prompt.gotemplate import GoTemplate
from tests.prompt import go_grammar
from tests.prompt.conversations import CONVERSATIONS, THINKING, messages, tools
from tests.prompt.oracle import CASES, FAMILIES, FOLDER, INFILL, TODAY, Oracle, of_cases, of_families, opened

NOON = datetime.fromisoformat(f"{TODAY}T12:00")
RESULTS = json.loads((FOLDER / "results.json").read_text(encoding="utf-8"))
PROMPTS = json.loads((FOLDER / "families.json").read_text(encoding="utf-8"))
OURS_ALONE = ("of a float is not supported", "%p prints addresses", "complex numbers are not supported")
NEWER = ("unexpected right paren",)


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Oracle]:
    with opened(tmp_path_factory.mktemp("go")) as oracle:
        if oracle is None:
            pytest.skip("Go is not installed, so its text/template cannot be asked")
        yield oracle


def ours(template: str, data: Any) -> dict[str, str]:
    try:
        return {"output": GoTemplate(template, now=lambda: NOON).execute(data)}
    except InvalidTemplate as error:
        return {"output": "", "error": str(error)}


def id_of(template: str) -> str:
    return template[:60].encode("unicode_escape").decode()


@pytest.mark.parametrize(
    ("case", "result"),
    list(zip(CASES["cases"], RESULTS, strict=True)),
    ids=[id_of(case["template"]) for case in CASES["cases"]],
)
def test_it_prints_and_complains_as_go_does(case: dict[str, str], result: dict[str, str]) -> None:
    assert ours(case["template"], CASES["data"][case["data"]]) == result


@pytest.mark.spec(95)
@pytest.mark.parametrize("family", PROMPTS)
def test_families_of_templates_make_the_prompts_that_go_makes(family: str) -> None:
    prompt = GoPrompt(GoTemplate(FAMILIES[family], now=lambda: NOON))
    made = {
        name: prompt.render_fim(*INFILL)
        if name == "infill"
        else prompt.render(messages(name), tools=tools(name), think=THINKING.get(name))
        for name in PROMPTS[family]
    }
    assert made == PROMPTS[family]


def test_the_recorded_prompts_are_of_every_family() -> None:
    assert set(PROMPTS) == set(FAMILIES)
    assert {name for made in PROMPTS.values() for name in made} == {*CONVERSATIONS, "infill"}


def test_go_still_says_what_was_recorded(oracle: Oracle) -> None:
    assert of_cases(oracle) == RESULTS
    assert of_families(oracle) == PROMPTS


def compare(oracle: Oracle, template: str) -> None:
    mine = ours(template, go_grammar.DATA)
    assume(not any(text in mine.get("error", "") for text in OURS_ALONE + NEWER))
    theirs = oracle.render({"template": template, "data": go_grammar.DATA})
    assume(not go_grammar.ranges_over_an_integer(theirs.get("error", "")))
    assert mine == theirs


live = settings(deadline=None, max_examples=120, suppress_health_check=list(HealthCheck))


@live
@given(template=go_grammar.templates())
def test_any_template_renders_as_with_go(oracle: Oracle, template: str) -> None:
    compare(oracle, template)


@live
@given(template=go_grammar.soups())
def test_anything_else_is_refused_as_with_go(oracle: Oracle, template: str) -> None:
    compare(oracle, template)
