"""The report of an evaluation, a demo or a study: ``results.json`` in, one self-contained ``report.html`` out."""

from __future__ import annotations

import hashlib
import json
from itertools import groupby
from pathlib import Path
from typing import Any

from markupsafe import Markup

from lang1.reporting import acting_views, figures, plots, subgroup_views, views, words
from lang1.reporting.answer import answer
from lang1.reporting.index import Index
from lang1.reporting.numbers import compact, count, duration, plural
from lang1.reporting.page import write_page
from lang1.reporting.schema import Data, Results, read_results, validate_results

__all__ = ["render", "validate_results"]


def render(results: dict[str, Any] | Path, out: Path) -> Path:
    """Write the report and return where it lies: ``out``, or ``out/report.html`` where ``out`` is a folder.

    The page needs no network and no script. The same results give the same bytes.

    Raises:
        ArtefactError: the results are damaged, or the place cannot be written.
    """
    checked = validate_results(results)
    index = Index(checked)
    digest = fingerprint(read_results(results))
    out = Path(out)
    values = {**_values(index), **_closing(checked, digest)}
    contents = [(name, text) for name, text, there in _contents(values, checked) if there]
    return write_page(
        "report.html.j2", out / "report.html" if out.is_dir() else out, title=checked.title, contents=contents, **values
    )


def fingerprint(results: dict[str, Any]) -> str:
    """SHA-256 over the results as canonical JSON: names exactly these figures."""
    text = json.dumps(results, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _values(index: Index) -> dict[str, Any]:
    r = index.results
    warnings = [w.text for w in r.warnings if w.level == "warn"]
    if index.repeated:
        warnings.append(
            f"{plural(index.repeated, 'row')} of the results name a figure that an earlier row names already; "
            "the first is shown."
        )
    pairs = views.paired_table(index)
    several = len(index.by_role("specialist")) > 1
    return {
        "r": r,
        "answer": answer(index),
        "simulated": bool(r.data) and not any(d.real for d in r.data),
        "glance": views.glance(index),
        "primary": index.primary.label if index.primary is not None else "",
        "warnings": warnings,
        "remarks": [w.text for w in r.warnings if w.level != "warn"],
        "data": [{"name": d.name, "real": d.real, "description": d.description, "facts": facts(d)} for d in r.data],
        "asked": _asked(index),
        "main_table": [group for group in views.main_table(index) if group.lines],
        "heads": views.task_heads(index),
        "has_oracle": bool(index.by_role("oracle")),
        "same_rows": _same_rows(index),
        "footnotes": views.footnotes(index),
        "forests": figures.forests(index),
        "paired": [
            (task if not several else f"{task}: {entry}", list(lines))
            for (task, entry), lines in groupby(pairs, key=lambda p: (p["task"], p["entry"]))
        ],
        "other_paired": views.other_paired(index),
        "curves": figures.curves(index),
        "curve_legend": figures.legend(index),
        "per_class": views.per_class(index),
        "metrics": views.other_metrics(index),
        "splits": views.splits_table(index),
        "operating": acting_views.operating(index),
        "decisions": acting_views.decision_curves(index),
        "decision_legend": acting_views.decision_legend(index),
        "recalibration": acting_views.recalibration(index),
        "weighings": acting_views.weighings(index),
        "families": _families(index),
        "strata": subgroup_views.subgroups(index),
        "strata_columns": subgroup_views.COLUMNS,
        "shares": views.shares_table(index),
        "attrition": views.attrition_table(index),
        "learning": figures.learning(list(r.learning), index.tasks),
        "costs": [
            {
                "step": c.step,
                "model": c.model or "",
                "parameters": compact(c.parameters),
                "tokens": compact(c.tokens),
                "seconds": duration(c.seconds),
                "device": c.device or "",
            }
            for c in r.cost
        ],
        "compared": [
            (plots.swatch(plots.role_of(e), e.marker), e.label, e.key, e.about + "." if e.about else Markup(""))
            for e in index.entries
        ],
        "glossary": words.GLOSSARY,
        "settings": [(step, views.flat(found)) for step, found in r.settings.items()],
    }


def _families(index: Index) -> list[str]:
    """How many p-values were corrected together, in words."""
    how = {"holm": "Holm", "bh": "Benjamini–Hochberg"}
    return [
        f"{f.family}: {plural(f.size, 'comparison')}, {how.get(f.correction, f.correction)}; "
        f"{count(f.below)} below 0.05 after correction."
        for f in index.results.families
    ]


def _same_rows(index: Index) -> bool:
    """Whether every competitor's AUROC of a task counts equally many rows."""
    sizes = [{r.n for e in index.entries if (r := index.auroc(task, e)) is not None} for task in index.tasks]
    return all(len(found) == 1 and None not in found for found in sizes)


def facts(data: Data) -> list[tuple[str, str]]:
    """What is known about a source of records, as names and texts."""
    found = [
        ("Patients", count(data.patients) if data.patients is not None else ""),
        ("Encounters", count(data.encounters) if data.encounters is not None else ""),
        ("Notes", count(data.notes) if data.notes is not None else ""),
        ("Period", data.period or ""),
        ("Time", words.TIME_BASIS.get(data.time_basis or "", data.time_basis or "")),
        ("Licence", data.licence or ""),
    ]
    return [(name, text) for name, text in found if text]


def _asked(index: Index) -> list[dict[str, str]]:
    made = []
    for task in index.tasks:
        row = next((r for e in index.entries if (r := index.auroc(task, e)) is not None and r.n is not None), None)
        made.append(
            {
                "title": task.title,
                "caveat": task.caveat or "",
                "note": words.NOTE_TYPES.get(task.note_type or "", (task.note_type or "–").replace("_", " ")),
                "split": words.split_title(task.headline_split),
                "n": count(row.n if row is not None else None),
                "events": count(row.events if row is not None else None),
            }
        )
    return made


def _closing(results: Results, digest: str) -> dict[str, Any]:
    version = results.versions.get("lang1", "")
    name = f"lang1 {version}".strip()
    return {
        "reproduce": (
            f"These figures were made by {name}. The settings of every step stand below, beside the fingerprints of "
            "what each step wrote: the same version with the same settings and seeds writes the same rows. "
            "The rows themselves lie in results.json beside this page."
        ),
        "cite": f"{results.title}. {name}, results {digest[:12]}.",
        "credits": [f"{d.name}. {d.licence}" for d in results.data if d.real and d.licence],
        "footer": f"{name} · results {digest[:12]} · drawn from results.json alone, without network.",
    }


def _contents(values: dict[str, Any], results: Results) -> list[tuple[str, str, Any]]:
    return [
        ("answer", "The answer in short", True),
        ("warnings", "Read with care", values["warnings"]),
        ("data", "Data and questions", results.data or results.tasks),
        ("main-table", "Main table", values["main_table"]),
        ("forest", "AUROC plots", values["forests"]),
        ("paired", "Paired differences", values["paired"]),
        ("curves", "ROC and calibration", values["curves"]),
        ("classes", "Class by class", values["per_class"]),
        ("acting", "Acting on the risks", values["operating"]["groups"] or values["decisions"]),
        ("metrics", "Other measures", values["metrics"]["groups"]),
        ("recalibration", "Recalibration", values["recalibration"]["groups"]),
        ("splits", "Other periods", values["splits"]["groups"]),
        ("strata", "Subgroups", values["strata"]),
        ("shares", "Outcome shares", values["shares"]["groups"]),
        ("attrition", "Attrition", values["attrition"]),
        ("learning", "Learning curves", values["learning"]),
        ("cost", "Cost", values["costs"]),
        ("tasks", "Task definitions", results.tasks),
        ("compared", "Who was compared", values["compared"]),
        ("words", "Glossary", True),
        ("reproduce", "Settings, reproduction", True),
    ]
