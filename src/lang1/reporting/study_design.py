"""What a study trained and scored, as tables of its report: one a part of the design, repeats by seed in one row."""

from __future__ import annotations

import json
from typing import Any

from lang1.reporting.downloads import Download, table_csv
from lang1.reporting.numbers import count
from lang1.reporting.study_schema import Column, Study, Table, Value
from lang1.reporting.study_tables import view
from lang1.reporting.study_words import DESIGNS, FIELDS, slug

Cells = list[dict[str, Any]]
COUNTED = ("parameters", "tokens", "notes", "budget")


def tables(study: Study) -> list[dict[str, Any]]:
    """Each part with its table. What all of its rows have in common is said once above it; the CSV has every column."""
    parts: dict[str, Cells] = {}
    for cell in study.design:
        parts.setdefault(str(cell.get("design", "grid")), []).append(cell)
    made = []
    for name, cells in parts.items():
        title, stem = DESIGNS.get(name, name.replace("_", " ")), f"design-{slug(name)}"
        columns, rows = _rows(cells)
        whole = Table(id=stem, title=title, columns=columns, rows=rows)
        shared = [c for c in columns if len(rows) > 1 and len({row.get(c.key) for row in rows}) == 1]
        note = "; ".join(f"{c.label}: {rows[0][c.key]}" for c in shared if rows[0][c.key])
        shown = Table(
            id=stem,
            title=title,
            columns=[c for c in columns if c not in shared],
            rows=[{k: v for k, v in row.items() if k not in {c.key for c in shared}} for row in rows],
            note=f"All of them: {note}." if note else "",
        )
        files = [Download(f"{stem}.csv", "CSV", table_csv(whole))]
        made.append({"v": view(shown), "title": title, "cells": len(cells), "downloads": files})
    return made


def _rows(cells: Cells) -> tuple[list[Column], list[dict[str, Value | str | None]]]:
    repeats: dict[str, tuple[dict[str, Any], list[Any]]] = {}
    for cell in cells:
        about = {k: v for k, v in cell.items() if k not in ("step", "seed", "design")}
        key = json.dumps(about, sort_keys=True, default=str)
        repeats.setdefault(key, (about, []))[1].append(cell.get("seed"))
    known = {*FIELDS, "step", "seed", "design", "seeds"}
    others = dict.fromkeys(key for cell in cells for key in cell if key not in known)
    fields = [
        k for k in [*FIELDS, *others] if any(about.get(k) not in (None, "", [], ()) for about, _ in repeats.values())
    ]
    rows: list[dict[str, Value | str | None]] = []
    for about, seeds in repeats.values():
        texts = {field: _text(field, about.get(field)) for field in fields}
        rows.append({**texts, "seeds": ", ".join(str(s) for s in seeds if s is not None)})
    columns = [Column(key=f, label=FIELDS.get(f, f.replace("_", " "))) for f in fields]
    return [*columns, Column(key="seeds", label="Seeds")], rows


def _text(field: str, value: Any) -> str:
    if value is None or value == "":
        return ""
    if field in COUNTED and isinstance(value, int | float):
        return count(value)
    if isinstance(value, list | tuple):
        return ", ".join(str(x) for x in value)
    return str(value)
