"""The report of a study: ``study.json`` in, one self-contained HTML out; and its figures and tables as files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lang1.common.artefact import read_json
from lang1.common.errors import ArtefactError
from lang1.reporting import plots, study_cases, study_design, views, words
from lang1.reporting.downloads import Download, figure_csv, standalone, table_csv
from lang1.reporting.numbers import count, join, plural
from lang1.reporting.page import write_page
from lang1.reporting.report import facts, fingerprint
from lang1.reporting.schema import Data
from lang1.reporting.study_figures import draw
from lang1.reporting.study_schema import Analysis, Claim, Figure, Study, Table, read_study
from lang1.reporting.study_tables import view
from lang1.reporting.study_words import CLAIM_MARKS, STUDY_GLOSSARY, VERDICTS, slug

FILE = "study.json"
MOST_CARDS = 3  # sources of records that are shown as cards; more are rows of a table
SAID_ONCE = 3  # a caveat of so many analyses is said above them all
FIRST = ("answer", "warnings", "glance")  # what stands above the list of the analyses


def is_study(source: Path) -> bool:
    """Whether a path is a study's results, or a folder that holds them: itself, or in one of its steps' folders."""
    return place_of(source).name == FILE


def place_of(source: Path) -> Path:
    """The file of a study's results, given itself, its folder, or the study's folder; else ``source`` as it is."""
    if not source.is_dir():
        return source
    inside = [source / FILE] if (source / FILE).is_file() else sorted(source.glob(f"[!.]*/{FILE}"))
    return inside[0] if len(inside) == 1 else source


def render_study(source: Path | dict[str, Any], out: Path) -> Path:
    """Write the report and return where it lies: ``out``, or ``out/report.html`` where ``out`` is a folder.

    ``source`` is ``study.json``, its folder, or its content. The same study gives the same bytes; the page needs no
    network, and no script but the one that unfolds what is folded before printing.

    Raises:
        ArtefactError: the study is damaged, or the place cannot be written.
    """
    study, digest = _read(source)
    out = Path(out)
    values = _values(study, digest)
    return write_page("study.html.j2", out / "report.html" if out.is_dir() else out, **values)


def write_figures(source: Path | dict[str, Any], folder: Path) -> list[Path]:
    """Write every figure as SVG and CSV and every table as CSV into a folder, under the names that the report offers.

    Files of these names are replaced, others are left alone.

    Raises:
        ArtefactError: the study is damaged, or the folder cannot be written.
    """
    study, _ = _read(source)
    written = []
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for file in downloads(study):
            place = Path(folder) / file.name
            place.write_text(file.content, encoding="utf-8", newline="")
            written.append(place)
    except OSError as error:
        raise ArtefactError(f"{folder}: cannot be written ({error.strerror}); choose another folder.") from error
    return written


def downloads(study: Study) -> Iterator[Download]:
    """All that a study's report offers, in its order."""
    for part in _parts(study):
        for shown in [*part["figures"], *part["tables"]]:
            yield from shown["downloads"]
    for shown in study_design.tables(study):
        yield from shown["downloads"]


def _read(source: Path | dict[str, Any]) -> tuple[Study, str]:
    if isinstance(source, dict):
        return read_study(source), fingerprint(json.loads(json.dumps(source, default=str)))
    place = place_of(Path(source))
    return read_study(place), fingerprint(read_json(place))


def _values(study: Study, digest: str) -> dict[str, Any]:
    parts = _parts(study)
    places = {part["given"]: part for part in parts}
    simulated = bool(study.data) and not any(d.real for d in study.data)
    mixed = any(d.real for d in study.data) and not all(d.real for d in study.data)
    cases = study_cases.browser(study)
    design = study_design.tables(study)
    titles = {task.task: task.title or task.task for task in study.tasks}
    name = f"lang1 {study.versions.get('lang1', '')}".strip()
    contents = [("answer", "The answer in short")]
    repeated = Counter(caveat for analysis in study.analyses for caveat in analysis.caveats)
    common = [caveat for caveat, times in repeated.items() if times >= SAID_ONCE]
    warned = study.warnings or study.failed or cases["warning"] or common
    contents += [("warnings", "Read with care")] if warned else []
    contents += [("glance", "In one sentence each")] if parts else []
    contents += [("data", "Data and questions")] if study.data or study.tasks else []
    contents += [(part["id"], f"{part['number']}  {part['title']}") for part in parts]
    contents += [("cases", "Cases")] if study.cases else []
    contents += [("design", "What was trained")] if design else []
    contents += [("words", "Glossary"), ("reproduce", "Settings, reproduction")]
    return {
        "title": study.title,
        "s": study,
        "diamond": plots.swatch("r-paper", "diamond"),
        "contents": contents,
        "further": [(id_, text) for id_, text in contents if not id_.startswith("analysis-") and id_ not in FIRST],
        "simulated": simulated,
        "mixed": mixed,
        "analyses": "One analysis" if len(parts) == 1 else f"{count(len(parts))} analyses",
        "tally": tally(study.claims),
        "claims": [_claim(claim, places) for claim in study.claims],
        "card_warning": cases["warning"],
        "data": [{"d": d, "facts": facts(d), "by_name": dict(facts(d))} for d in study.data],
        "most_cards": MOST_CARDS,
        "fact_names": list(dict.fromkeys(name for d in study.data for name, _ in facts(d))),
        "chips": _chips(study.data),
        "tasks": [
            {
                "title": titles[task.task],
                "task": task,
                # A question as models were asked it holds its options already.
                "options": [] if all(option in task.question for option in task.options) else task.options,
                "note": words.NOTE_TYPES.get(task.note_type or "", (task.note_type or "").replace("_", " ")),
                "split": words.split_title(task.headline_split) if task.headline_split else "",
            }
            for task in study.tasks
        ],
        "parts": parts,
        "common": common,
        "browser": cases,
        "design": design,
        "cells": len(study.design),
        "settings": _settings(study.settings),
        "glossary": STUDY_GLOSSARY,
        "cite": f"{study.title}. {name}, study {digest[:12]}.",
        "credits": [f"{d.name}. {d.licence}" for d in study.data if d.licence],
        "made_by": name,
        "footer": f"{name} · study {digest[:12]} · drawn from study.json alone, without network.",
    }


def _chips(data: list[Data]) -> list[dict[str, str]]:
    """Which data the study is about: one chip a health system, or one a kind where there are many."""
    made = []
    for kind, words_of in (("real", "Real data"), ("simulated", "Simulated data")):
        names = list(dict.fromkeys(d.name for d in data if d.real == (kind == "real")))
        if len(data) <= MOST_CARDS:
            made += [{"class": kind, "text": f"{words_of}: {name}"} for name in names]
        elif names:
            others = f" and {plural(len(names) - 2, 'other')}" if len(names) > 2 else ""
            made.append({"class": kind, "text": f"{words_of}: {', '.join(names[:2])}{others}"})
    return made


def tally(claims: list[Claim]) -> str:
    """How many claims hold, in one sentence."""
    if not claims:
        return ""
    counts = {verdict: sum(c.verdict == verdict for c in claims) for verdict in CLAIM_MARKS}
    said = {
        "holds": ("holds", "hold"),
        "does not hold": ("does not hold", "do not hold"),
        "undecided": ("is undecided", "are undecided"),
        "not examined": ("was not examined", "were not examined"),
    }
    parts = [f"{count(n)} {said[v][n != 1]}" for v, n in counts.items() if n]
    return f"On this data, of {plural(len(claims), 'claim')} of the Lang1 paper {join(parts)}."


def _claim(claim: Claim, places: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    mark, class_ = CLAIM_MARKS[claim.verdict]
    said, _, rule = claim.claim.partition(". ")
    return {"c": claim, "said": said, "rule": rule, "mark": mark, "class": class_, "part": places.get(claim.analysis)}


def _parts(study: Study) -> list[dict[str, Any]]:
    """The analyses with their figures, tables and downloads; numbers and anchors follow their order."""
    made, used = [], set[str]()
    for number, analysis in enumerate(study.analyses, 1):
        stem = slug(analysis.id) or f"analysis-{number}"
        while stem in used:
            stem += "-"
        used.add(stem)
        made.append(_part(analysis, number, stem))
    return made


def _part(analysis: Analysis, number: int, stem: str) -> dict[str, Any]:
    mark, verdict, class_ = VERDICTS[analysis.verdict]
    return {
        "given": analysis.id,
        "id": f"analysis-{stem}",
        "number": number,
        "title": analysis.title,
        "a": analysis,
        "mark": mark,
        "verdict": verdict,
        "class": class_,
        "figures": [_figure(f, f"{number}.{k}", f"{stem}-figure-{k}") for k, f in enumerate(analysis.figures, 1)],
        "tables": [_table(t, f"{number}.{k}", f"{stem}-table-{k}") for k, t in enumerate(analysis.tables, 1)],
    }


def _figure(figure: Figure, number: str, stem: str) -> dict[str, Any]:
    drawing = draw(figure, stem)
    plot = drawing.render()
    files = [Download(f"{stem}.svg", "SVG", standalone(plot)), Download(f"{stem}.csv", "CSV", figure_csv(figure))]
    return {"f": figure, "number": number, "plot": plot, "width": round(drawing.width), "downloads": files}


def _table(table: Table, number: str, stem: str) -> dict[str, Any]:
    return {"v": view(table), "number": number, "downloads": [Download(f"{stem}.csv", "CSV", table_csv(table))]}


def _settings(settings: dict[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    nested = [(name, views.flat(value)) for name, value in settings.items() if isinstance(value, Mapping)]
    loose = views.flat({name: value for name, value in settings.items() if not isinstance(value, Mapping)})
    return [("study", loose), *nested] if loose else nested
