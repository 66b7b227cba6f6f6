"""A comparison as CSV and as a LaTeX table."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

COLUMNS = (
    *("task", "split", "model", "regime", "metric", "class", "versus", "value", "low", "high", "sd"),
    *("p", "p_adjusted", "correction", "family", "n", "events", "note"),
)


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Every row of a comparison, one a line."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: "" if row.get(key) is None else row[key] for key in COLUMNS} for row in rows)
    return text.getvalue()


def as_latex(result: dict[str, Any]) -> str:
    """A ``booktabs`` table of models × tasks; a dagger marks a corrected p below 0.05 against the reference."""
    about = result["comparison"]
    tasks = [task["task"] for task in result["tasks"]]
    cells: dict[tuple[str, str], dict[str, Any]] = {}
    marks: set[tuple[str, str]] = set()
    for row in result["rows"]:
        if row["metric"] != "auroc":
            continue
        key = f"{row['model']}|{row['regime']}", row["task"]
        if row["versus"] is None:
            cells[key] = row
        elif row["versus"] == about["reference"] and (row.get("p_adjusted") or 1.0) < 0.05:
            marks.add(key)
    lines = [
        "\\begin{tabular}{l" + "c" * len(tasks) + "}",
        "\\toprule",
        " & ".join(["Model", *(_tex(task["title"]) for task in result["tasks"])]) + " \\\\",
        "\\midrule",
    ]
    for model in about["models"]:
        shown = []
        for task in tasks:
            row = cells.get((model, task))
            if row is None or row["value"] is None:
                shown.append("--")
                continue
            span = "" if row["low"] is None else f" ({row['low']:.3f}--{row['high']:.3f})"
            mark = "$^\\dagger$" if (model, task) in marks else ""
            shown.append(f"{row['value']:.3f}{mark}{span}")
        lines.append(" & ".join([_tex(model.replace("|", ", ")), *shown]) + " \\\\")
    name = {"holm": "Holm", "bh": "Benjamini--Hochberg"}[about["correction"]]
    note = (
        f"AUROC (95\\,\\% interval) on {_tex(about['split'])}. $^\\dagger$ differs from "
        f"{_tex(about['reference'].replace('|', ', '))}, p $<$ 0.05 after {name} over {about['family']} comparisons."
    )
    width = len(tasks) + 1
    lines += ["\\bottomrule", f"\\multicolumn{{{width}}}{{l}}{{\\footnotesize {note}}}", "\\end{tabular}", ""]
    return "\n".join(lines)


_ESCAPES = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
}


def _tex(text: str) -> str:
    return "".join(_ESCAPES.get(c, c) for c in text)
