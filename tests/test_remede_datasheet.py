"""The datasheet says what the benchmark holds, as a page and as Markdown, and shows no group of a few."""

from __future__ import annotations

import re
from html import unescape

import pytest

from lang1.cli.main import app
from lang1.remede.benchmark import Benchmark
from lang1.remede.build import build
from lang1.remede.datasheet import SMALLEST_GROUP
from lang1.remede.settings import BuildSettings
from lang1.simulator.settings import SimulatorSettings
from lang1.simulator.simulate import simulate


@pytest.fixture(scope="module")
def sheet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Benchmark, str, str]:
    place = tmp_path_factory.mktemp("sheet")
    (records,) = simulate(place / "sim", SimulatorSettings(patients=300, seed=5))
    benchmark = build(records, place / "benchmark", BuildSettings(calendar="demo"))
    app(["remede", "card", str(benchmark)], standalone_mode=False)
    made = place / "benchmark-datasheet"
    return Benchmark.open(benchmark), (made / "datasheet.md").read_text(), (made / "datasheet.html").read_text()


def table(text: str, title: str) -> list[list[str]]:
    """The cells of the first Markdown table after a line, its head and rule left out."""
    lines = text[text.index(title) :].splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("| ---"))
    rows = []
    for line in lines[start + 1 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def number(text: str) -> int:
    return int(text.replace(",", ""))


def test_attrition_and_shares_are_those_of_the_benchmark(sheet: tuple[Benchmark, str, str]) -> None:
    benchmark, text, _ = sheet
    for task, card in benchmark.cards.items():
        part = text[text.index(f"## {card.title}\n") :]
        ledger = [row for row in benchmark.ledger if row["task"] == task]
        assert [number(row[1]) for row in table(part, "**Attrition**")] == [row["rows"] for row in ledger]
        first = {row["class"]: row["n"] for row in benchmark.shares if (row["task"], row["split"]) == (task, "train")}
        shown = [number(row[1].split(" (")[0]) for row in table(part, "**Classes by split**")]
        assert shown == [first[c] for c in range(card.classes)]


def test_groups_of_a_few_are_not_shown_alone(sheet: tuple[Benchmark, str, str]) -> None:
    benchmark, text, _ = sheet
    encounters = len(set(benchmark.examples()["encounter_id"].to_pylist()))
    for name in ("sex", "race", "department", "payer"):
        rows = table(text, f"| {name} | encounters |")
        assert sum(number(n) for _, n, _ in rows) == encounters
        assert all(number(n) >= SMALLEST_GROUP for level, n, _ in rows if level != "all others")
    for _, n, _ in table(text, "| group | examples |"):
        assert number(n) >= SMALLEST_GROUP


def test_the_page_needs_nothing_else_and_says_the_same(sheet: tuple[Benchmark, str, str]) -> None:
    benchmark, text, page = sheet
    assert not re.search(r"(src|href)=\"(?!#)", page)
    for card in benchmark.cards.values():
        assert card.definition.split(",")[0] in unescape(page)
    assert benchmark.folder.fingerprint in text and benchmark.folder.fingerprint in page
