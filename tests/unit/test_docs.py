"""The documents name what exists, and their examples come out as they say."""

import ast
import json
import re
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute, Route
from typer.main import get_command

from app import errors
from app.cli import cli
from app.core.lifecycle import FIRST
from app.core.lifecycle import STEPS as STEPS_OF_SESSIONS
from app.core.lossless_json import loads
from app.core.what_if import BUCKETS, Direction
from app.heartbeats.endpoint import PATH
from app.ledger.checks import CHECKS
from app.ledger.heads import EXPORTED
from app.ledger.verify import CHAIN, IDENTITY, LIMITS, TERMS
from app.pricing.documents import PreviewDocument, RateCardDocument, read_rate_card
from app.pricing.preview import preview
from app.pricing.templates import PROVIDER_COST
from app.service import Service
from app.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
API = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
CHARGING = (ROOT / "docs" / "charging.md").read_text(encoding="utf-8")
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
DEPENDENCIES = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def rows(document: str) -> set[str]:
    """What stands in backticks in the first cell of the document's tables."""
    return {
        name
        for line in document.splitlines()
        if line.startswith("| ")
        for name in re.findall(r"`([^`]+)`", line.split("|")[1])
    }


def fenced(document: str, language: str) -> list[str]:
    """The blocks of a language."""
    return [text for kind, text in FENCE.findall(document) if kind == language]


# Settings


def test_every_setting_has_its_row() -> None:
    assert {name for name in rows(CONFIGURATION) if name.startswith(PREFIX)} == {
        PREFIX + name.upper() for name in Settings.model_fields
    }


def test_the_defaults_of_settings_are_those_of_the_code() -> None:
    told = {
        cells[1].strip().strip("`"): cells[2].strip().strip("`")
        for cells in (line.split("|") for line in CONFIGURATION.splitlines() if line.startswith(f"| `{PREFIX}"))
    }
    for name, field in Settings.model_fields.items():
        default = told[PREFIX + name.upper()]
        if name.endswith("_s"):
            assert default == str(field.default // 1_000_000), name
        elif field.default not in (None, ()):
            assert default == str(field.default), name


# The API


def codes_in_use() -> dict[str, errors.Code]:
    """The problems that some module of the application names."""
    known = {name: value for name, value in vars(errors).items() if isinstance(value, errors.Code)}
    named: set[str] = set()
    for path in (ROOT / "app").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module == "app.errors":
                named.update(alias.name for alias in node.names)
    return {name: code for name, code in known.items() if name in named or code is errors.INVALID_REQUEST}


def test_every_problem_that_the_api_can_answer_has_its_row_with_its_status() -> None:
    for code in codes_in_use().values():
        row = next((line for line in API.splitlines() if line.startswith(f"| `{code.name}` |")), None)
        assert row is not None, code.name
        status = row.split("|")[2].strip()
        assert status == f"{code.status}{', retry' if code.retryable else ''}", code.name


def test_no_problem_is_described_that_nothing_answers() -> None:
    described = {name for name in rows(API) if re.fullmatch(r"[a-z]+(-[a-z]+)+", name)}
    assert described - {code.name for code in codes_in_use().values()} == set()


def routes_of(found: list[BaseRoute]) -> set[str]:
    named: set[str] = set()
    for route in found:
        if isinstance(route, APIRoute | Route):
            path = re.sub(r"{(\w+):\w+}", r"{\1}", route.path)
            named |= {f"{method} {path}" for method in (route.methods or set()) - {"HEAD"}}
        inner = getattr(route, "original_router", None)  # what FastAPI keeps of an included router
        if inner is not None:
            named |= routes_of(inner.routes)
    return named


@pytest.fixture
def calls() -> set[str]:
    """Every call of the service."""
    settings = Settings(
        gabber_api_key="only-for-this-test",  # type: ignore[arg-type]
        secret=("only-for-this-test",),  # type: ignore[arg-type]
        _env_file=None,  # type: ignore[call-arg]
    )
    service = Service(settings, "postgresql://nobody@127.0.0.1:1/nothing")
    return routes_of(service._api.routes) | {f"POST {PATH}{{token}}"}


def test_every_call_is_described_and_no_other(calls: set[str]) -> None:
    described = {name for name in rows(API) if re.match(r"(GET|POST|PUT|PATCH|DELETE) /", name)}
    assert len(calls) > 15
    assert described == calls


def test_every_call_of_a_resource_has_a_section(calls: set[str]) -> None:
    headings = set(re.findall(r"^### `(.+)`$", API, re.MULTILINE))
    assert headings == {call for call in calls if not re.search(r"/(healthz|readyz|openapi\.json|docs)$", call)}


def test_the_fields_of_a_preview_are_described() -> None:
    assert set(PreviewDocument.model_fields) <= rows(CHARGING)


def test_the_table_of_states_is_the_one_of_the_code() -> None:
    told = {}
    for line in API.partition("| state | | what may follow |")[2].partition("\n\n")[0].splitlines()[2:]:
        _, state, _, following, _ = line.split("|")
        told[state.strip().strip("`")] = set(re.findall(r"`([a-z]+)`", following))
    assert told == {str(state): {str(one) for one in following} for state, following in STEPS_OF_SESSIONS.items()}
    first = re.search(r"A session begins as (.+?)\.", " ".join(API.split()))
    assert first is not None
    assert set(re.findall(r"`([a-z]+)`", first[1])) == set(map(str, FIRST))


# Dependencies


def test_every_dependency_has_its_row_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *(name for group in project["optional-dependencies"].values() for name in group),
    ]
    names = [re.split(r"[\[<>=]", requirement)[0] for requirement in wanted]
    described = [line.split("|")[1].strip().strip("`") for line in DEPENDENCIES.splitlines() if line.startswith("| `")]
    assert sorted(described) == sorted(names)


# Links


def anchors(path: Path) -> set[str]:
    """The headings of a document as GitHub makes anchors of them."""
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = unquote(target).partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


def test_every_decision_is_listed() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = re.findall(r"\]\((\d{4}-[a-z0-9-]+\.md)\)", (folder / "README.md").read_text(encoding="utf-8"))
    assert listed == sorted(path.name for path in folder.glob("0*.md"))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_json_examples_are_json(path: Path) -> None:
    for block in fenced(path.read_text(encoding="utf-8"), "json"):
        json.loads(block)


# Examples


def amount(document: dict[str, Any]) -> str:
    return str(preview(json.dumps(document).encode())["amount"])


def test_the_readmes_file_costs_what_it_says() -> None:
    (example,) = [block for block in fenced(README, "json") if '"snapshots"' in block]
    told = re.search(
        r"says: ([0-9.]+) credits\. With `\"heartbeats\": (\[.+?\])` it says: ([0-9.]+) credits",
        " ".join(README.split()),
    )
    assert told is not None
    without, heartbeats, with_them = told.groups()
    document = json.loads(example)
    assert amount(document) == without
    assert amount(document | {"heartbeats": json.loads(heartbeats)}) == with_them
    assert f"**{without}**" in README
    assert f"**{with_them}**" in README


def test_the_card_in_the_charging_rules_is_the_default() -> None:
    (block,) = [text for text in fenced(CHARGING, "json") if '"measurement"' in text]
    named = {"name": "default", "rates": {"user": "60", "agent": "60", "silence": "60"}}
    assert set(json.loads(block)) == set(RateCardDocument.model_fields)
    evidence = json.loads(next(text for text in fenced(README, "json") if '"snapshots"' in text))
    answers = [preview(json.dumps(evidence | {"rate_card": card}).encode()) for card in (json.loads(block), named)]
    assert answers[0] == answers[1]


def test_the_template_in_the_text_is_the_one_that_is_given_out() -> None:
    what_if = (ROOT / "docs" / "what-if.md").read_text(encoding="utf-8")
    (block,) = [text for text in fenced(what_if, "json") if '"provider_cost"' in text]
    assert read_rate_card(loads(block)) == PROVIDER_COST.card
    assert [json.loads(block)["rates"][place.rpartition("/")[2]] for place in PROVIDER_COST.placeholders] == ["0"] * 3


def test_the_buckets_in_the_text_are_those_of_the_code() -> None:
    what_if = (ROOT / "docs" / "what-if.md").read_text(encoding="utf-8").replace("−", "-")
    for direction in (Direction.LOWER, Direction.HIGHER):
        row = next(line for line in what_if.splitlines() if line.startswith(f"| `{direction}` |"))
        told = row.split("|")[2].strip().split(", ")
        assert told == [
            f"{one.from_percent} … {'null' if one.to_percent is None else one.to_percent}"
            for one in BUCKETS
            if one.direction is direction
        ]


MANY_CARDS = [
    ("default", {}, "25.5"),
    ("half", {"rate_card": {"silence": {"factor_after": "0.5"}}}, "33"),
    ("included", {"rate_card": {"included_s": 12}}, "13.5"),
    ("user first", {"rate_card": {"measurement": {"charge_from": "first_user_speech"}}}, "15.5"),
    ("limit", {"time_limit_s": 30}, "19.5"),
    ("interim", {"interim": True}, "25.5"),
]
CHEAP = {"rates": {"user": "1.5", "agent": "3", "silence": "0.6"}}
STEPS = {"connection_fee": "0.1", "increments": {"initial_s": 60, "subsequent_s": 60}}
STEPS_BY_TYPE = {"connection_fee": "0.1", "increments": {"initial_s": 60, "subsequent_s": 60, "scope": "type"}}
MANY_CARDS += [
    ("cheap", {"rate_card": CHEAP}, "0.9625"),
    ("steps", {"rate_card": CHEAP | STEPS}, "1.4075"),
    ("steps by type", {"rate_card": CHEAP | STEPS_BY_TYPE}, "5.2"),
    ("minimum duration", {"rate_card": CHEAP | {"minimum_duration_s": 60}}, "1.3075"),
    ("quantum", {"rate_card": CHEAP | {"rounding": {"quantum": "0.01", "mode": "up"}}}, "0.97"),
    ("minimum", {"rate_card": CHEAP | {"minimum_charge": "1"}}, "1"),
    ("maximum", {"rate_card": CHEAP | {"maximum_charge": "0.5"}}, "0.5"),
    ("authorized", {"rate_card": CHEAP, "authorized": "0.7"}, "0.7"),
]


@pytest.mark.parametrize(("name", "changes", "charge"), MANY_CARDS, ids=[name for name, _, _ in MANY_CARDS])
def test_one_talk_costs_what_the_table_of_many_cards_says(name: str, changes: dict[str, Any], charge: str) -> None:
    usual = {"name": "example", "rates": {"user": "60", "agent": "60", "silence": "60"}}
    values = [("agent", 10), ("user", 4.5), ("silence", 20), ("agent", 6), ("silence", 259.5)]
    document = {
        "requested_at": "2026-01-31T12:00:00Z",
        "heartbeats": ["2026-01-31T12:00:32Z"],
        "snapshots": [
            {
                "requested_at": "2026-01-31T12:05:02Z",
                "received_at": "2026-01-31T12:05:02Z",
                "values": [{"type": kind, "seconds": seconds} for kind, seconds in values],
            }
        ],
    }
    assert amount(document | changes | {"rate_card": usual | changes.get("rate_card", {})}) == charge
    section = CHARGING.partition("### One talk, many cards")[2].partition("\n### ")[0]
    table = [line.split("|")[3].strip() for line in section.splitlines() if line.startswith("| ")][1:]
    assert table == [told for _, _, told in MANY_CARDS]


# Invariants


def test_every_check_has_its_row_and_every_row_its_check() -> None:
    invariants = (ROOT / "docs" / "invariants.md").read_text(encoding="utf-8")
    assert rows(invariants) == {check.name for check in CHECKS} | {CHAIN, IDENTITY, LIMITS, TERMS, EXPORTED}


def test_what_is_there_does_not_stand_among_what_is_still_to_come(calls: set[str]) -> None:
    told = README.partition("## Not yet")[2]
    named = set(re.findall(r"`((?:GET|POST) /[^`]+)`", told))
    assert named
    assert not named & calls
    commands = set(get_command(cli).commands)  # type: ignore[attr-defined]
    assert {"serve", "keys"} <= commands
    assert not set(re.findall(r"`talktime (\w+)`", told)) & commands
