"""The report as a file: complete, well-formed, self-contained, escaped, and content with what is there."""

from __future__ import annotations

import copy
import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from reporting_fixture import MODELS, TASKS, make_results

from lang1.common.errors import ArtefactError
from lang1.reporting.report import render, validate_results
from lang1.reporting.terminal import closing_table, closing_text

VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """Checks that tags balance; collects text, ids, references and headings."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.parts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == [], f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.parts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.parts).split())


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    return make_results()


@pytest.fixture(scope="module")
def source(results: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> str:
    return render(results, tmp_path_factory.mktemp("report") / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(source: str) -> Page:
    return Page(source)


def test_every_task_model_and_section_is_there(page: Page, results: dict[str, Any]) -> None:
    for task in TASKS:
        assert task["title"] in page.text
        assert task["question"] in page.text
    for name in (
        "lang1-nano, finetuned jointly",
        "lang1-nano, zero-shot",
        "TF-IDF + logistic regression",
        "Gradient boosting on structured fields",
        "Metadata only",
        "Note length only",
        "Prevalence",
        "Oracle",
    ):
        assert name in page.text
    ids = [attrs["id"] for _, attrs in page.seen if "id" in attrs]
    assert len(ids) == len(set(ids))
    sections = "answer warnings data main-table forest paired curves classes metrics splits shares attrition learning"
    assert set(f"{sections} cost tasks compared words reproduce".split()) <= set(ids)
    assert results["fingerprints"]["model"] in page.text
    assert "optimizer.betas 0.9, 0.95" in page.text


def test_every_headline_auroc_stands_with_its_interval(page: Page, results: dict[str, Any]) -> None:
    headline = [
        r
        for r in results["rows"]
        if r["metric"] == "auroc" and r["split"] == "test_newest" and not r["versus"] and r["low"] != r["high"]
    ]
    assert len(headline) == sum(5 if m[0] != "gbm-structured" else 1 for m in MODELS) - 5
    for row in headline:
        assert f"{row['value']:.3f}" in page.text
        assert f"{row['low']:.3f}–{row['high']:.3f}" in page.text


def test_every_paired_difference_is_there(page: Page, results: dict[str, Any]) -> None:
    paired = [r for r in results["rows"] if r["versus"] and r["split"] == "test_newest"]
    assert paired
    for row in paired:
        assert f"{row['value']:+.3f}".replace("-", "−") in page.text


def test_rows_of_other_splits_shares_and_attrition_are_there(page: Page, results: dict[str, Any]) -> None:
    for row in results["rows"]:
        if row["metric"] == "auroc" and not row["versus"] and row["low"] != row["high"]:
            assert f"{row['value']:.3f}" in page.text
    for share in results["shares"]:
        assert f"{share['n']:,}" in page.text
    for step in results["attrition"]:
        assert step["rule"] in page.text
        assert f"{step['rows']:,}" in page.text


def test_nothing_is_fetched(source: str, page: Page) -> None:
    for tag, attrs in page.seen:
        for name in ("src", "href", "xlink:href", "srcset", "data", "action"):
            value = attrs.get(name)
            assert value is None or value.startswith("#"), f"{tag} {name}={value}"
    assert not re.search(r"url\(|@import|https?://", source)
    assert {tag for tag, _ in page.seen} & {"link", "img", "iframe", "object", "embed", "video"} == set()
    policy = [a["content"] for t, a in page.seen if t == "meta" and "http-equiv" in a]
    assert policy and "default-src 'none'" in str(policy[0])


def test_plots_and_tables_can_be_read_aloud(page: Page) -> None:
    drawings = [attrs for tag, attrs in page.seen if tag == "svg"]
    assert all(a.get("role") == "img" or a.get("aria-hidden") == "true" for a in drawings)
    named = [a for a in drawings if a.get("role") == "img"]
    ids = {a["id"] for _, a in page.seen if "id" in a}
    assert len(named) > 20
    assert all(set(str(a["aria-labelledby"]).split()) <= ids for a in named)
    levels = [int(tag[1]) for tag, _ in page.seen if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))


def test_the_same_results_give_the_same_bytes(results: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    file.write_text(json.dumps(results), encoding="utf-8")
    first, second = render(file, tmp_path / "a.html"), render(copy.deepcopy(results), tmp_path / "b.html")
    assert first.read_bytes() == second.read_bytes()


def test_a_folder_as_target_gets_report_html(results: dict[str, Any], tmp_path: Path) -> None:
    assert render(results, tmp_path) == tmp_path / "report.html"


def test_everything_is_escaped(results: dict[str, Any], tmp_path: Path) -> None:
    hostile = json.loads(
        json.dumps(results)
        .replace("lang1-nano", "<script>alert(1)")
        .replace("Length of stay", "Stay & <b>length</b>")
        .replace("Demo study", "</title><img src=x onerror=alert(1)>")
    )
    hostile["warnings"].append({"level": "warn", "text": "<i>warn</i>"})
    hostile["settings"]["x\"'<u>"] = {"<u>": "</dd><u>"}
    text = render(hostile, tmp_path / "r.html").read_text(encoding="utf-8")
    page = Page(text)
    assert [t for t, _ in page.seen].count("script") == 1
    assert not {"img", "u", "i"} & {t for t, _ in page.seen}
    assert "&lt;b&gt;length" in text and "<b>length" not in text
    assert "<script>alert(1), finetuned jointly" in page.text
    assert "<i>warn</i>" in page.text


def test_warnings_are_shown_in_a_banner(results: dict[str, Any], tmp_path: Path) -> None:
    quiet = {**results, "warnings": [{"level": "info", "text": "by the way"}]}
    text = render(quiet, tmp_path / "q.html").read_text(encoding="utf-8")
    assert 'class="banner"' not in text and "by the way" in text
    loud = {**results, "warnings": [{"level": "warn", "text": "few events"}]}
    assert 'class="banner"' in render(loud, tmp_path / "l.html").read_text(encoding="utf-8")


def test_simulated_and_real_data_are_told_apart(results: dict[str, Any], tmp_path: Path, page: Page) -> None:
    assert "Simulated data" in page.text and "The records are simulated" in page.text
    real = copy.deepcopy(results)
    real["title"] = "Real stays"
    real["data"][0] |= {"real": True, "name": "Diabetes 130", "licence": "CC BY 4.0, Clore et al."}
    real["data"][0]["description"] = "Stays of 130 hospitals."
    real["rows"] = [r for r in real["rows"] if r["regime"] != "oracle" and r["metric"] != "attained_share"]
    real["curves"] = [c for c in real["curves"] if c["regime"] != "oracle"]
    found = Page(render(real, tmp_path / "real.html").read_text(encoding="utf-8"))
    assert "Real data" in found.text and "simulated" not in found.text.split("In plain words")[0].lower()
    assert "Diabetes 130. CC BY 4.0, Clore et al." in found.text
    assert "the way from guessing to the best" not in found.text


@pytest.mark.parametrize(
    "part",
    [
        "data",
        "tasks",
        "curves",
        "attrition",
        "shares",
        "learning",
        "cost",
        "settings",
        "fingerprints",
        "versions",
        "warnings",
        "subtitle",
    ],
)
def test_a_missing_part_leaves_out_its_section_only(results: dict[str, Any], part: str, tmp_path: Path) -> None:
    less = {key: value for key, value in results.items() if key != part}
    page = Page(render(less, tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "The answer in short" in page.text and "Paired differences" in page.text
    targets = {str(a["href"])[1:] for _, a in page.seen if str(a.get("href", "")).startswith("#")}
    assert targets <= {a["id"] for _, a in page.seen if "id" in a}


def test_a_page_of_nothing_but_a_title_still_renders(tmp_path: Path) -> None:
    page = Page(render({"lang1_results": 1, "title": "Empty", "rows": []}, tmp_path / "r.html").read_text("utf-8"))
    assert "Empty" in page.text and "no specialist" in page.text


def test_unknown_values_are_dashes(tmp_path: Path) -> None:
    rows = [
        {"task": "a", "model": "m", "regime": "joint", "metric": "auroc", "value": value, "low": None, "high": None}
        | {"split": split}
        for split, value in (("test", float("nan")), ("val", 0.7))
    ]
    results = {
        "lang1_results": 1,
        "title": "t",
        "tasks": [{"task": "a", "title": "A", "headline_split": "test"}],
        "rows": rows,
    }
    text = render(results, tmp_path / "r.html").read_text(encoding="utf-8")
    assert "nan" not in Page(text).text.lower()
    assert '<td class="headline">–</td>' in text


def test_folders_of_one_name_keep_their_whole_paths(tmp_path: Path) -> None:
    row = {"task": "a", "regime": "zero-shot", "metric": "auroc", "split": "test", "n": 9, "value": 0.7}
    rows = [{**row, "model": "x/small"}, {**row, "model": "y/small"}, {**row, "model": "y/large"}]
    page = Page(render({"lang1_results": 1, "title": "t", "rows": rows}, tmp_path / "r.html").read_text("utf-8"))
    assert "x/small, zero-shot" in page.text and "y/small, zero-shot" in page.text
    assert " large, zero-shot" in page.text


def test_several_seeds_are_told_apart_and_repeated_rows_are_counted(tmp_path: Path) -> None:
    row = {"task": "a", "model": "m", "regime": "joint", "metric": "auroc", "split": "test", "n": 9}
    rows = [{**row, "value": 0.71, "seed": 1}, {**row, "value": 0.72, "seed": 2}, {**row, "value": 0.73, "seed": 2}]
    page = Page(render({"lang1_results": 1, "title": "t", "rows": rows}, tmp_path / "r.html").read_text("utf-8"))
    assert "seed 1" in page.text and "seed 2" in page.text
    assert "1 row of the results name a figure that an earlier row names already" in page.text


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda r: r.pop("lang1_results"), "no 'lang1_results'"),
        (lambda r: r.update(lang1_results=2), "version 2"),
        (lambda r: r.pop("rows"), "rows: Field required"),
        (lambda r: r["rows"][3].update(value="high"), "rows.3.value"),
        (lambda r: r["rows"][0].update(regime="guess"), "rows.0.regime"),
        (lambda r: r["rows"][0].update(n=1.5), "rows.0.n"),
        (lambda r: r["curves"][0]["x"].append(1.0), "curves.0: Value error, x, y and n must be equally long"),
        (lambda r: r["curves"][0].update(kind="lift"), "curves.0.kind"),
        (lambda r: r.update(tasks={"a": 1}), "tasks"),
        (lambda r: r["data"][0].pop("real"), "data.0.real"),
    ],
)
def test_damaged_results_are_refused_in_one_line(results: dict[str, Any], change: Any, expected: str) -> None:
    damaged = copy.deepcopy(results)
    change(damaged)
    with pytest.raises(ArtefactError) as error:
        validate_results(damaged)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_a_damaged_file_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    with pytest.raises(ArtefactError, match="missing"):
        validate_results(file)
    file.write_text("{", encoding="utf-8")
    with pytest.raises(ArtefactError, match=r"results\.json is not valid JSON"):
        render(file, tmp_path / "r.html")
    file.write_text("[]", encoding="utf-8")
    with pytest.raises(ArtefactError, match="expected a results object, found a list"):
        render(file, tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


@pytest.mark.parametrize("width", [80, 100])
def test_the_closing_table_fits_the_terminal(results: dict[str, Any], width: int) -> None:
    text = closing_text(results, width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "\x1b" not in text and "…" not in text
    best = next(r for r in results["rows"] if r["model"] == "oracle" and r["split"] == "test_newest")
    headline = [
        r for r in results["rows"] if r["metric"] == "auroc" and r["split"] == "test_newest" and not r["versus"]
    ]
    for row in headline:
        assert f"{row['value']:.3f}" in text
        assert row["low"] == row["high"] or f"{row['low']:.3f}–{row['high']:.3f}" in text
    assert best and "attained" in text
    assert closing_table(results).row_count == text.count("attained") + len(MODELS)


def test_the_closing_table_takes_markup_as_text(results: dict[str, Any]) -> None:
    odd = json.loads(json.dumps(results).replace("lang1-nano", "[red]x").replace("Comorbidity", "[bold]"))
    text = closing_text(odd)
    assert "[red]x" in text and "[bold]" in text
