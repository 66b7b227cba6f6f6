"""A study's report as a file: complete, self-contained, escaped, usable by keyboard; its downloads hold its numbers."""

from __future__ import annotations

import base64
import copy
import csv
import hashlib
import io
import itertools
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from study_page_fixture import MODELS, TASKS, make_study
from test_reporting_report import Page

from lang1.cli.main import report
from lang1.common.errors import ArtefactError, SettingsError
from lang1.reporting.downloads import figure_csv, standalone, table_csv
from lang1.reporting.study_figures import draw
from lang1.reporting.study_report import render_study, tally, write_figures
from lang1.reporting.study_schema import Figure, Study, Table, Value, read_study
from lang1.reporting.study_tables import view

HOSTILE = '\x0b<script>alert("x")</script>&amp;<img src=x onerror=y>\'"'


@pytest.fixture(scope="module")
def study() -> dict[str, Any]:
    return make_study()


@pytest.fixture(scope="module")
def source(study: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> str:
    return render_study(study, tmp_path_factory.mktemp("study") / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(source: str) -> Page:
    return Page(source)


@pytest.fixture(scope="module")
def files(source: str) -> dict[str, str]:
    """Every download of the page by name."""
    links = re.findall(r'<a download="([^"]+)" href="data:[^"]+?;base64,([^"]+)"', source)
    assert len(dict(links)) == len(links), "two downloads share a name"
    return {name: base64.b64decode(content).decode() for name, content in links}


def _rewritten(value: Any, text: str) -> Any:
    """The same with another text wherever free text may stand."""
    kept = {"id", "kind", "role", "scale", "verdict", "key", "task", "headline_split", "design", "analysis", "name"}
    if isinstance(value, dict):
        return {k: v if k in kept and isinstance(v, str) else _rewritten(v, text) for k, v in value.items()}
    if isinstance(value, list):
        return [_rewritten(v, text) for v in value]
    return text if isinstance(value, str) else value


def test_the_same_study_gives_the_same_bytes_from_a_file_a_folder_and_a_value(
    study: dict[str, Any], source: str, tmp_path: Path
) -> None:
    (tmp_path / "study.json").write_text(json.dumps(study), encoding="utf-8")
    for given in (study, tmp_path / "study.json", tmp_path):
        assert render_study(given, tmp_path / "again.html").read_text(encoding="utf-8") == source


def test_a_caveat_of_several_analyses_is_said_once(study: dict[str, Any], tmp_path: Path) -> None:
    common, own = "These patients were all invented.", "This one analysis has a catch."
    for number, analysis in enumerate(given := copy.deepcopy(study)["analyses"]):
        analysis["caveats"] = [common, own] if number == 0 else [common]
    assert len(given) >= 3
    html = render_study({**study, "analyses": given}, tmp_path / "report.html").read_text(encoding="utf-8")
    assert html.count(common) == 1 and html.count(own) == 1
    assert html.index(common) < html.index(own)
    assert html.count('<a href="#warnings">said of several analyses</a>') == len(given)


def test_all_that_the_study_holds_is_on_the_page(page: Page, study: dict[str, Any]) -> None:
    found = Study.model_validate(study)
    wanted = [found.title, *found.failed, *found.warnings]
    for analysis in found.analyses:
        wanted += [analysis.title, analysis.question, analysis.sentence, *analysis.caveats, analysis.paper]
        wanted += [f.title for f in analysis.figures] + [t.title for t in analysis.tables]
        wanted += [name for t in analysis.tables for row in t.rows for name in row.values() if isinstance(name, str)]
    wanted += [text for c in found.claims for text in (c.claim, c.evidence, c.verdict, c.paper)]
    wanted += [text for c in found.cases for text in (" ".join(c.note.split()), c.question, c.why)]
    for text in wanted:
        assert " ".join(text.split()) in page.text, text
    for mark in ("✓", "✗", "◆", "○"):
        assert mark in page.text
    assert "All records of this study are simulated." in page.text
    assert "On this data, of 6 claims of the Lang1 paper 3 hold, 1 does not hold, 1 is undecided and" in page.text


def test_numbers_stand_with_interval_and_the_papers_figure(page: Page, study: dict[str, Any]) -> None:
    cell = study["analyses"][1]["tables"][0]["rows"][0]["readmission"]
    assert f"{cell['value']:.3f} {cell['low']:.3f}–{cell['high']:.3f} paper {cell['paper']:.3f}" in page.text
    assert "n = 1,500 260 events" in page.text and "Each figure is a mean over 3 trainings." in page.text
    assert "$181,250 $120,000–$260,000 paper $180,000" in page.text
    assert "p <0.001 (0.030)" in page.text


def test_every_figure_and_table_can_be_taken_out(files: dict[str, str], study: dict[str, Any]) -> None:
    wanted = set()
    for analysis in study["analyses"]:
        for k in range(1, len(analysis.get("figures", [])) + 1):
            wanted |= {f"{analysis['id']}-figure-{k}.svg", f"{analysis['id']}-figure-{k}.csv"}
        wanted |= {f"{analysis['id']}-table-{k}.csv" for k in range(1, len(analysis.get("tables", [])) + 1)}
    assert wanted | {"design-grid.csv", "design-efficiency.csv"} == set(files)


def test_table_csv_gives_the_same_numbers_back(files: dict[str, str], study: dict[str, Any]) -> None:
    for analysis in Study.model_validate(study).analyses:
        for k, table in enumerate(analysis.tables, 1):
            read = list(csv.DictReader(io.StringIO(files[f"{analysis.id}-table-{k}.csv"])))
            numbers = [(i, key, v) for i, row in enumerate(table.rows, 1) for key, v in row.items()]
            for place, key, cell in numbers:
                if not isinstance(cell, Value):
                    continue
                (line,) = [r for r in read if r["row"] == str(place) and r["column"] == key]
                for name in ("value", "low", "high", "paper", "n", "events", "seeds", "p"):
                    said = getattr(cell, name)
                    assert (float(line[name]) if line[name] else None) == said, (key, name)
                texts = {c.key for c in table.columns if c.kind == "text"}
                assert all(line[c] == (table.rows[place - 1].get(c) or "") for c in texts)


def test_table_csv_loses_no_text_and_keeps_names_apart() -> None:
    table = Table.model_validate(
        {
            "id": "t",
            "title": "t",
            "columns": [{"key": "value", "label": "Value"}, {"key": "x", "label": "X", "kind": "number"}],
            "rows": [{"value": 'a "quoted", one', "x": "not run"}, {"value": "alone"}, {"value": "n", "x": 0.1 + 0.2}],
        }
    )
    rows = list(csv.DictReader(io.StringIO(table_csv(table))))
    assert [r["value_text"] for r in rows] == ['a "quoted", one', "alone", "n"]
    assert rows[0]["note"] == "not run" and rows[0]["value"] == "" and rows[1]["column"] == ""
    assert float(rows[2]["value"]) == 0.1 + 0.2


def test_figure_csv_gives_the_same_points_back(files: dict[str, str], study: dict[str, Any]) -> None:
    for analysis in Study.model_validate(study).analyses:
        for k, figure in enumerate(analysis.figures, 1):
            rows = list(csv.DictReader(io.StringIO(files[f"{analysis.id}-figure-{k}.csv"])))
            points = [(s.name, s.role, p) for s in figure.series for p in s.points]
            assert len(rows) == len(points) + len(figure.lines)
            for row, (name, role, p) in zip(rows, points, strict=False):
                assert (row["series"], row["role"], row["label"]) == (name, role, p.label)
                assert (row["x"] if isinstance(p.x, str) else float(row["x"])) == p.x
                assert [float(row[c]) if row[c] else None for c in ("value", "low", "high")] == [p.y, p.low, p.high]
            assert {r["series"]: float(r["value"]) for r in rows if r["role"] == "reference"} == figure.lines


def test_drawings_that_leave_the_page_bring_all_their_looks(files: dict[str, str]) -> None:
    drawings = [content for name, content in files.items() if name.endswith(".svg")]
    assert len(drawings) >= 12
    for text in drawings:
        root = ET.fromstring(text)
        assert root.tag == "{http://www.w3.org/2000/svg}svg" and root.get("font-family")
        assert root[0].tag.endswith("title") and root[1].tag.endswith("desc")
        for element in root.iter():
            assert not {"class", "style", "id"} & set(element.attrib)
            assert not any("var(" in v or "url(" in v or "http" in v for v in element.attrib.values())
            kind = element.tag.rpartition("}")[2]
            assert kind not in ("style", "script", "image", "use", "a")
            if kind == "text":
                assert element.get("fill") and element.get("font-size")
            if kind == "line":
                assert element.get("stroke")
            if kind == "polyline":
                assert element.get("fill") == "none" and element.get("stroke")
            if kind in ("polygon", "circle"):
                assert element.get("fill")


def test_a_drawing_takes_its_colours_from_the_style_sheet_by_role() -> None:
    def drawn(role: str) -> ET.Element:
        point = {"x": "a", "y": 0.7, "low": 0.6, "high": 0.8}
        axes = {"x": {"label": "x", "scale": "names"}, "y": {"label": "y"}}
        series = [{"name": "s", "role": role, "points": [point]}]
        figure = Figure.model_validate({"id": "f", "kind": "forest", "title": "t", "series": series, **axes})
        return ET.fromstring(standalone(draw(figure, "f").render()))

    def mark(root: ET.Element) -> dict[str, str]:
        return next(e.attrib for e in root.iter() if e.tag.endswith(("circle", "polygon")))

    assert mark(drawn("specialist"))["fill"] == "#0b5cab"
    assert mark(drawn("generalist")) | {"fill": "#ffffff", "stroke": "#8e3a84"} == mark(drawn("generalist"))
    paper = mark(drawn("paper"))
    assert paper["fill"] == "#ffffff" and paper["stroke"] == "#55606b", "the paper's figures are hollow"


def test_nothing_comes_from_outside_and_only_the_known_script_runs(source: str) -> None:
    page = Page(source)
    for tag, attributes in page.seen:
        assert tag not in ("link", "img", "iframe", "object", "embed", "form", "base")
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "action"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:image/svg+xml;", "data:text/csv;")), value
    (script,) = re.findall(r"<script>(.*?)</script>", source, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in source and "default-src 'none'" in source
    outside = re.sub(r'href="data:[^"]+"', "", source)
    assert "http://" not in outside and "https://" not in outside


def test_hostile_text_is_shown_and_never_run(study: dict[str, Any], tmp_path: Path) -> None:
    hostile = _rewritten(copy.deepcopy(study), HOSTILE) | {"lang1_study": 1}
    for analysis, old in zip(hostile["analyses"], study["analyses"], strict=True):
        analysis["id"] = old["id"] + '"/><script>'
        for table, before in zip(analysis.get("tables", []), old.get("tables", []), strict=True):
            table["columns"] = before["columns"]
    text = render_study(hostile, tmp_path / "hostile.html").read_text(encoding="utf-8")
    page = Page(text)
    assert [tag for tag, _ in page.seen if tag in ("script", "img")] == ["script"]
    assert not any(name.startswith("on") for _, attributes in page.seen for name in attributes)
    assert 'alert("x")' in page.text
    for file in write_figures(hostile, tmp_path / "files"):
        assert file.parent == tmp_path / "files" and re.fullmatch(r"[a-z0-9-]+\.(svg|csv)", file.name)
        if file.suffix == ".svg":
            assert not [e for e in ET.parse(file).iter() if e.tag.endswith(("script", "img"))]


def test_files_are_what_the_page_offers(study: dict[str, Any], files: dict[str, str], tmp_path: Path) -> None:
    written = write_figures(study, tmp_path / "figures")
    assert {p.name: p.read_text(encoding="utf-8") for p in written} == files
    assert write_figures(study, tmp_path / "figures") == written, "again into the same folder"
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtefactError, match="choose another folder"):
        write_figures(study, tmp_path / "file")


def test_figures_have_names_and_links_have_targets(page: Page, source: str) -> None:
    ids = [attributes["id"] for _, attributes in page.seen if attributes.get("id")]
    assert len(set(ids)) == len(ids)
    for tag, attributes in page.seen:
        if attributes.get("role") == "img":
            assert all(name in ids for name in (attributes["aria-labelledby"] or "").split())
        if tag == "a" and (attributes.get("href") or "").startswith("#"):
            assert (attributes["href"] or "")[1:] in ids, attributes
        if tag == "svg":
            assert attributes.get("role") == "img" or attributes.get("aria-hidden") == "true"
        if "scroll" in (attributes.get("class") or "").split() or attributes.get("class") == "read":
            assert attributes.get("tabindex") == "0" and attributes.get("role") == "region" and attributes["aria-label"]
    labelled = {attributes["for"] for tag, attributes in page.seen if tag == "label"}
    fields = {attributes["id"] for tag, attributes in page.seen if tag == "input"}
    assert fields and fields == labelled
    heads = [int(tag[1]) for tag, _ in page.seen if re.fullmatch(r"h[1-6]", tag)]
    assert heads[0] == 1 and all(b - a <= 1 for a, b in itertools.pairwise(heads))
    assert all(a.get("scope") for tag, a in page.seen if tag == "th")


def test_cases_are_filtered_by_task_without_a_script(page: Page, source: str, study: dict[str, Any]) -> None:
    chosen = [a["id"] for tag, a in page.seen if tag == "input" and "checked" in a]
    assert chosen == ["show-0"]
    for k in range(len(TASKS)):
        assert f".browser:has(#show-{k}:checked) .case:not(.in-{k}, :target) {{ display: none; }}" in source
    shown = [a for tag, a in page.seen if tag == "article"]
    assert len(shown) == len(study["cases"])
    order = [a["id"] for a in shown]
    links = [a["href"] for tag, a in page.seen if tag == "a" and (a.get("href") or "").startswith("#case-")]
    expected = [f"#{other}" for k, _ in enumerate(order) for other in order[max(k - 1, 0) : k + 2] if other != order[k]]
    assert links == expected


def test_without_cases_there_is_no_note_and_with_real_ones_a_warning(study: dict[str, Any], tmp_path: Path) -> None:
    plain = Page(render_study({**study, "cases": []}, tmp_path / "a.html").read_text(encoding="utf-8"))
    assert "Chief complaint" not in plain.text and not [t for t, a in plain.seen if a.get("id") == "cases"]
    real = copy.deepcopy(study)
    for case in real["cases"][:3]:
        case["real"] = True
    page = Page(render_study(real, tmp_path / "b.html").read_text(encoding="utf-8"))
    assert page.text.count("holds 3 cases of real patients, note text included") == 2
    unmarked = copy.deepcopy(study)
    unmarked["data"][0]["real"] = True
    page = Page(render_study(unmarked, tmp_path / "c.html").read_text(encoding="utf-8"))
    assert "cases of real patients" in page.text, "a case of a system that is not known to be simulated counts as real"
    assert "Some records of this study are simulated." in page.text


def test_a_study_with_nothing_in_it_still_makes_a_page(tmp_path: Path) -> None:
    bare = {"lang1_study": 1, "title": "Bare", "data": [], "tasks": [], "claims": [], "analyses": []}
    page = Page(render_study(bare, tmp_path / "bare.html").read_text(encoding="utf-8"))
    assert "This study has no finished analysis." in page.text and tally([]) == ""


def test_figures_without_values_and_with_odd_ones_are_drawn(tmp_path: Path) -> None:
    for kind in ("lines", "scatter", "bars", "forest", "matrix"):
        for points in (
            [],
            [{"x": "a", "y": None, "label": "r"}],
            [{"x": "a", "y": 0.5, "label": "r"}],
            [{"x": "a", "y": -1e6, "low": -2e6, "high": 3e9, "label": "r"}, {"x": "b", "y": 0.0, "label": "r"}],
            [{"x": 3.0, "y": 1.0, "label": "r"}, {"x": 3.0, "y": 1.0, "label": "s"}],
        ):
            for scale in ("linear", "log", "names"):
                figure = Figure.model_validate(
                    {
                        "id": "f",
                        "kind": kind,
                        "title": "t",
                        "x": {"label": "x", "scale": scale},
                        "y": {"label": "y"},
                        "series": [{"name": "s", "points": points}] if points else [],
                    }
                )
                text = draw(figure, "f").render()
                assert "nan" not in text and "inf" not in text
                ET.fromstring(standalone(text))
                assert figure_csv(figure).count("\n") == len(points) + 1


def test_points_lie_where_their_values_say() -> None:
    points = [{"x": x, "y": y} for x, y in ((10.0, 0.5), (100.0, 0.6), (1000.0, 0.7))]
    figure = Figure.model_validate(
        {
            "id": "f",
            "kind": "lines",
            "title": "t",
            "x": {"label": "x", "scale": "log"},
            "y": {"label": "y"},
            "series": [{"name": "s", "points": points}],
        }
    )
    marks = list(ET.fromstring(draw(figure, "f").render()).iter("circle"))
    xs, ys = [float(m.get("cx", 0)) for m in marks], [float(m.get("cy", 0)) for m in marks]
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.11) and xs[0] < xs[1]
    assert ys[0] - ys[1] == pytest.approx(ys[1] - ys[2], abs=0.11) and ys[0] > ys[1]


def test_series_of_one_figure_never_look_the_same() -> None:
    from lang1.reporting.study_series import looks

    for roles in (["specialist"] * 12, ["generalist"] * 6, [role for _, role, _ in MODELS] + ["paper"] * 3):
        series = [{"name": str(k), "role": role, "points": []} for k, role in enumerate(roles)]
        figure = {"id": "f", "kind": "lines", "title": "t", "x": {"label": ""}, "y": {"label": ""}, "series": series}
        found = [(look.role, look.marker) for look in looks(Figure.model_validate(figure).series)]
        assert len(set(found)) == len(found), found


def test_rows_that_share_their_first_text_stand_under_it(study: dict[str, Any]) -> None:
    table = Table.model_validate(study["analyses"][2]["tables"][0])
    shown = view(table)
    assert [block.title for block in shown.blocks] == TASKS
    assert shown.blocks[0].rows[1].head == TASKS[1] and shown.long
    assert {cell.mark for block in shown.blocks for row in block.rows for cell in row.cells} == {"", "▲", "▼", "◆"}


def test_the_design_says_once_what_its_rows_share_and_its_csv_says_all(page: Page, files: dict[str, str]) -> None:
    assert "All of them: Regime: joint; Model: 8M; Parameters: 8,400,000;" in page.text
    rows = list(csv.DictReader(io.StringIO(files["design-efficiency.csv"])))
    assert len(rows) == 4 and {row["seeds_text"] for row in rows} == {"0, 1, 2"}
    assert {(row["regime"], row["notes"], row["parameters"]) for row in rows} == {("joint", "1,000", "8,400,000")}


def test_a_claim_is_said_apart_from_how_it_is_decided(study: dict[str, Any], tmp_path: Path) -> None:
    claims = [{**study["claims"][0], "claim": "It is so. A task counts where it is clear."}]
    text = render_study({**study, "claims": claims}, tmp_path / "claims.html").read_text(encoding="utf-8")
    assert '<p class="claim">It is so</p>' in text and '<p class="small">A task counts where it is clear.</p>' in text


def test_remarks_that_repeat_or_are_long_stand_below_their_table() -> None:
    cells = [{"value": 0.5, "note": "read off"}] * 3 + [
        {"value": 0.6, "note": "alone"},
        {"value": 0.7, "note": "x" * 60},
    ]
    columns = [{"key": "m", "label": "Model"}, {"key": "v", "label": "AUROC", "kind": "auroc"}]
    rows = [{"m": str(k), "v": cell} for k, cell in enumerate(cells)]
    shown = view(Table.model_validate({"id": "t", "title": "t", "columns": columns, "rows": rows, "note": "Said"}))
    cells_shown = [row.cells[0] for row in shown.blocks[0].rows]
    assert [c.foot for c in cells_shown] == ["a", "a", "a", "", "b"] and list(cells_shown[3].more) == ["alone"]
    assert list(shown.feet) == [("a", "read off"), ("b", "x" * 60)] and shown.note == "Said."


def test_trainings_are_only_told_of_figures_that_say_them() -> None:
    columns = [{"key": "m", "label": "Model"}, {"key": "v", "label": "AUROC", "kind": "auroc"}]

    def shown(*seeds: int | None) -> Any:
        rows = [{"m": str(k), "v": {"value": 0.5, "seeds": s}} for k, s in enumerate(seeds)]
        return view(Table.model_validate({"id": "t", "title": "t", "columns": columns, "rows": rows}))

    assert "mean over 3 trainings" in shown(3, 3).note
    assert shown(1, 1).note == "One training each."
    mixed = shown(3, 1, None)
    assert mixed.note == "" and [row.about for row in mixed.blocks[0].rows] == ["3 trainings", "one training", ""]


def test_a_table_of_numbers_alone_has_no_row_heads() -> None:
    columns = [{"key": "v", "label": "Difference", "kind": "difference"}]
    rows = [{"v": {"value": 0.1, "low": -0.1, "high": 0.3, "p": 0.2}}]
    shown = view(Table.model_validate({"id": "t", "title": "t", "columns": columns, "rows": rows}))
    assert shown.blocks[0].rows[0].head is None and shown.blocks[0].rows[0].cells[0].mark == "◆"


def test_damaged_studies_are_refused_in_one_line(study: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="not a study of version 1"):
        read_study({**study, "lang1_study": 9})
    broken = copy.deepcopy(study)
    broken["analyses"][0]["tables"][0]["rows"][0]["unheard"] = "x"
    with pytest.raises(ArtefactError, match=r"analyses\.0\.tables\.0.*no column"):
        render_study(broken, tmp_path / "x.html")


def test_the_report_verb_redraws_a_study_and_writes_its_figures(
    study: dict[str, Any], source: str, files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "study" / "last").mkdir(parents=True)
    (tmp_path / "study" / "last" / "study.json").write_text(json.dumps(study), encoding="utf-8")
    report(tmp_path / "study", figures=tmp_path / "figures")
    assert (tmp_path / "study" / "last" / "report.html").read_text(encoding="utf-8") == source
    assert {p.name for p in (tmp_path / "figures").iterdir()} == set(files)
    assert f"{len(files)} figures and tables" in capsys.readouterr().err
    with pytest.raises(SettingsError, match=r"holds no study\.json"):
        report(tmp_path / "figures", figures=tmp_path / "more")


def test_many_sources_of_records_are_rows_of_one_table_and_chips_a_kind(tmp_path: Path) -> None:
    study = make_study()
    one = study["data"][0]
    study["data"] = [{**one, "name": f"hospital-{k}", "real": k == 4, "description": "<b>x</b>"} for k in range(5)]
    page = render_study(study, tmp_path / "r.html").read_text(encoding="utf-8")
    assert page.count('class="chip simulated"') == 1 and "Simulated data: hospital-0, hospital-1 and 2 others" in page
    assert page.count('class="chip real"') == 1 and "Real data: hospital-4" in page
    rows = page.split('aria-label="Data">')[-1].split("</table>")[0]
    assert all(f"hospital-{k}<small>&lt;b&gt;x" in rows for k in range(5)) and rows.count("<tr>") == 6
