"""What was ingested and labelled from each open data set: writes ``docs/open-data.md`` and ``results/open_data.json``.

    python benchmarks/open_data.py ../shared/data

Each folder that is found is taken in by ``lang1 ingest`` and labelled by ``lang1 remede build``, by their functions,
with the settings that the table shows. Counts can be checked by hand against the files.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lang1.common.artefact import versions
from lang1.common.errors import InputError
from lang1.common.settings import validate_settings
from lang1.records.readers import FORMATS
from lang1.records.store import Records
from lang1.remede.benchmark import Benchmark
from lang1.remede.build import build
from lang1.remede.settings import TASKS, BuildSettings

YEAR_2024 = {table: {"through": "2024-12-31", "key": "admit_time"} for table in ("encounters", "notes", "diagnoses")}
ADMISSIONS = dict.fromkeys(
    ("2000001802", "2000001804", "2000001806", "2000001807", "2000001808", "2000001809"), "inpatient"
)
OBSERVED = dict.fromkeys(("2000001803", "2000001805"), "observation")


@dataclass(frozen=True)
class Set:
    """One data set: folder, format, and the settings of ingest and build."""

    folder: str
    format: str
    ingest: dict[str, Any] = field(default_factory=dict)
    build: dict[str, Any] = field(default_factory=dict)
    title: str = ""


SETS = (
    Set("uci-diabetes-130", "diabetes-130", {}, {"calendar": None}),
    Set("mimic-iv-demo", "mimic-iv", {}, {"calendar": None}),
    Set("mimic-iv-demo", "mimic-iv", {"render_notes": True}, {"calendar": None, "mark_unsupported": "all"},
        "mimic-iv-demo, notes rendered, marked"),
    Set("mimic-iii-demo", "mimic-iii", {}, {"calendar": None}),
    Set("mimic-iii-demo", "mimic-iii", {"render_notes": True}, {"calendar": None, "mark_unsupported": "all"},
        "mimic-iii-demo, notes rendered, marked"),
    Set("mimic-iv-demo-omop", "omop",
        {"visit_classes": ADMISSIONS | OBSERVED, "dispositions": {"HOME HEALTH CARE": "home_health"}},
        {"calendar": None}),
    Set("mimic-iv-demo-meds", "meds", {}, {"calendar": None}),
    Set("eicu-demo", "eicu", {}, {"calendar": None}),
    Set("clinosim-fhir-sample", "fhir",
        {"time_zone": "UTC", "complete_through": YEAR_2024, "vital_status": {"source": "ehr", "through": "2024-12-31"}},
        {"calendar": None}),
    Set("synthea-fhir-bulk-10", "fhir",
        {"time_zone": "UTC", "complete_through": YEAR_2024, "vital_status": {"source": "ehr", "through": "2024-12-31"}},
        {"calendar": None}),
)  # fmt: skip


def take(source: Path, known: Set, place: Path) -> dict[str, Any]:
    """Ingest and label one set: counts by table, what was left out, and by task the labels or why there are none."""
    if known.format == "diabetes-130":
        from lang1.records.readers.diabetes130 import Diabetes130Settings, ingest_diabetes130

        ingest_diabetes130(place / "records", Diabetes130Settings(source=source))
    else:
        reader = FORMATS[known.format]
        module = importlib.import_module(f"lang1.records.readers.{reader.module}")
        settings = validate_settings(getattr(module, reader.settings), known.ingest, known.format)
        getattr(module, reader.function)(source, place / "records", settings)
    records = Records.open(place / "records")
    manifest = records.folder.manifest
    with records.connect() as connection:
        kinds = connection.execute(
            "SELECT encounter_class, count(*) FROM encounters GROUP BY 1 ORDER BY 2 DESC"
        ).fetchall()
        dead = connection.execute("SELECT count(*) FROM patients WHERE death_time IS NOT NULL").fetchall()[0][0]
    tables = ("patients", "encounters", "notes", "diagnoses", "procedures", "unit_stays", "claims")
    return {
        "title": known.title or known.folder,
        "format": known.format,
        "ingest": known.ingest,
        "build": known.build,
        "counts": {table: manifest.counts.get(table, 0) for table in tables},
        "encounter_classes": dict(kinds),
        "patients_with_death": dead,
        "left_out": manifest.left_out,
        "oddities": manifest.counts.get("oddities", {}),
        "tasks": {task: label(place / "records", place / task, task, known.build) for task in TASKS},
    }


def label(records: Path, out: Path, task: str, settings: dict[str, Any]) -> dict[str, Any]:
    """One task alone, so that a refusal says its reason."""
    try:
        build(records, out, BuildSettings.model_validate({**settings, "tasks": [task]}))
    except InputError as error:
        return {"refused": str(error).replace(f"{records}: ", "").replace(str(records), "records")}
    benchmark = Benchmark.open(out)
    labels = benchmark.examples()["label"].to_pylist()
    start = next(row["rows"] for row in benchmark.ledger if row["task"] == task)
    return {
        "candidates": start,
        "labelled": len(labels),
        "classes": {text: labels.count(c) for c, text in enumerate(benchmark.cards[task].options)},
    }


def page(found: list[dict[str, Any]], missing: list[str]) -> str:
    """The document, as Markdown."""
    lines = [
        "# Open data: what was ingested and labelled",
        "",
        "Made by `python benchmarks/open_data.py FOLDER` from the open data sets; none of them is part of lang1 but "
        "Diabetes-130. Labels are counts over all splits, no calendar. A task that a set cannot support says why. The "
        "X12 samples hold claims of nobody in these records and no remittance: [readers/x12.md](readers/x12.md) has "
        "a verdict a file. What was left aside for [three formats of one hospital](three-formats.md) is told there.",
        "",
        "| set | format | patients | encounters | notes | diagnoses | procedures | unit stays | claims | known dead |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in found:
        kinds = ", ".join(f"{n:,} {kind}" for kind, n in one["encounter_classes"].items())
        counts = {table: f"{n:,}" for table, n in one["counts"].items()}
        counts["encounters"] += f" ({kinds})"
        cells = [one["title"], one["format"], *counts.values(), f"{one['patients_with_death']:,}"]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "| set | " + " | ".join(TASKS) + " |", "| --- |" + " --- |" * len(TASKS)]
    for one in found:
        lines.append("| " + " | ".join([one["title"], *(cell(one["tasks"][task]) for task in TASKS)]) + " |")
    lines += ["", "## Left out and odd, by set", ""]
    for one in found:
        said = [*(f"{n:,} {reason}" for reason, n in one["left_out"].items())]
        odd = [f"{n:,} {name}" for name, n in one["oddities"].items()]
        lines.append(
            f"- **{one['title']}**: left out: {'; '.join(said) or 'nothing'}. Odd and kept: {'; '.join(odd) or 'none'}."
        )
    if missing:
        lines += ["", f"Not found in this run: {', '.join(missing)}."]
    return "\n".join([*lines, ""])


def cell(task: dict[str, Any]) -> str:
    """One cell of the table of labels."""
    if "refused" in task:
        return "refused: " + task["refused"].replace("|", "/")
    classes = ", ".join(f"{text}: {n:,}" for text, n in task["classes"].items())
    return f"{task['labelled']:,} of {task['candidates']:,} ({classes})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the data sets lie, a folder each")
    options = parser.parse_args()
    here = Path(__file__).parent
    found, missing = [], []
    for known in SETS:
        if not (options.folder / known.folder).is_dir():
            missing.append(known.folder)
            continue
        with tempfile.TemporaryDirectory() as place:
            found.append(take(options.folder / known.folder, known, Path(place)))
        print(json.dumps(found[-1]["tasks"]), file=sys.stderr, flush=True)
    (here.parent / "docs" / "open-data.md").write_text(page(found, missing), encoding="utf-8")
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    result = {
        "name": "open_data", "ratio": None,
        "aim": "every open data set ingested, each task labelled or refused with its reason",
        "met": not missing and all("labelled" in t or "refused" in t for one in found for t in one["tasks"].values()),
        "figures": {"sets": len(found), "detail": found},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores", "versions": versions(), "commit": commit,
        "command": "python benchmarks/open_data.py FOLDER",
    }  # fmt: skip
    (here / "results" / "open_data.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
