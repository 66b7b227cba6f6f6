"""Tiny health systems for the benchmark's tests, written as lists of rows, and tests of how a benchmark is set up."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from lang1.records.schema import OPTIONAL_TABLES, TABLES
from lang1.records.store import RecordsMeta, new_records
from lang1.remede.benchmark import Benchmark
from lang1.remede.build import BuildSettings

Rows = list[dict[str, Any]]
END = datetime(2024, 12, 31)
COMPLETE = {
    "encounters": {"through": END, "key": "admit_time"},
    "diagnoses": {"through": END, "key": "discharge_time"},
    "claims": {"through": END, "key": "submitted_time"},
}


def when(text: Any) -> Any:
    """``2020-01-31`` or ``2020-01-31 12:00`` as a time; other things stay what they are."""
    return datetime.fromisoformat(text) if isinstance(text, str) else text


def stay(name: str, patient: str, admit: Any, discharge: Any, **more: Any) -> dict[str, Any]:
    """An inpatient encounter."""
    row = {"encounter_id": name, "patient_id": patient, "admit_time": when(admit), "discharge_time": when(discharge)}
    return row | {"encounter_class": "inpatient", "disposition": "home"} | more


def note(encounter: str, patient: str, kind: str, at: Any, **more: Any) -> dict[str, Any]:
    """A note that is created, signed and available at one time."""
    time = when(at)
    row = {"note_id": f"{encounter}/{kind}", "patient_id": patient, "encounter_id": encounter, "note_type": kind}
    times = {"created_time": time, "signed_time": time, "available_time": time}
    return row | times | {"text": f"{kind} of {encounter} at {time}"} | more


def hp(encounter: str, patient: str, at: Any, **more: Any) -> dict[str, Any]:
    return note(encounter, patient, "history_and_physical", at, **more)


def dc(encounter: str, patient: str, at: Any, **more: Any) -> dict[str, Any]:
    return note(encounter, patient, "discharge_summary", at, **more)


def write(out: Path, tables: dict[str, Rows], **meta: Any) -> Path:
    """A records folder; patients are those of the encounters unless given."""
    tables = dict(tables)
    known = {row["patient_id"] for row in tables.get("patients", [])}
    more = sorted({row["patient_id"] for row in tables["encounters"]} - known)
    tables["patients"] = [*tables.get("patients", []), *({"patient_id": p} for p in more)]
    said: dict[str, Any] = {"system": "test", "time_basis": "calendar", "complete_through": COMPLETE} | meta
    with new_records(out, RecordsMeta(**said)) as draft:
        for table, schema in (TABLES | OPTIONAL_TABLES).items():
            if tables.get(table):
                columns = {name for row in tables[table] for name in row}
                part = pa.schema([field for field in schema if field.name in columns])
                draft.write_part(table, pa.Table.from_pylist(tables[table], schema=part), 0)
    return out


def settings(**more: Any) -> BuildSettings:
    """All patients in train and one long block, so that a situation's row is not lost to the calendar."""
    block = {"train": {"start": "2000-01-01", "end": "2030-12-31"}}
    whole = {"train": 1.0, "val": 0.0, "test": 0.0}
    return BuildSettings.model_validate({"calendar": block, "fractions": whole} | more)


def labels(benchmark: Benchmark) -> dict[str, int]:
    table = benchmark.examples()
    return dict(zip(table["example_id"].to_pylist(), table["label"].to_pylist(), strict=True))


def population(patients: int, *, start: str = "2013-01-03", every: int = 97, stays: int = 8) -> dict[str, Rows]:
    """Patients with stays spread over the years, notes, codes and claims: something to split."""
    tables: dict[str, Rows] = {name: [] for name in ("patients", "encounters", "notes", "diagnoses", "claims")}
    for p in range(patients):
        who = f"P{p:04d}"
        tables["patients"].append({"patient_id": who, "birth_year": 1940 + p % 50, "sex": "female"})
        for s in range(stays):
            admit = datetime.fromisoformat(start) + timedelta(days=(p * 37 + s * every * 5) % 4300, hours=p % 24)
            discharge, name = admit + timedelta(days=1 + (p + s) % 9, hours=3), f"E{p:04d}-{s}"
            gone = "expired" if (p + 3 * s) % 11 == 0 else "home"
            tables["encounters"].append(stay(name, who, admit, discharge, disposition=gone, payer="plan"))
            tables["notes"].append(hp(name, who, admit + timedelta(hours=5)))
            tables["notes"].append(dc(name, who, discharge + timedelta(hours=2)))
            for position, code in enumerate(["I50.9", "E11.9", "C78.0"][: 1 + (p + s) % 3]):
                row = {"encounter_id": name, "patient_id": who, "code": code, "code_version": "ICD-10-CM"}
                tables["diagnoses"].append(row | {"position": position + 1})
            status = "denied_upheld" if (p + s) % 5 == 0 else "paid"
            claim = {"claim_id": f"C{name}", "encounter_id": name, "patient_id": who, "coverage_order": 1}
            tables["claims"].append(claim | {"final_status": status, "submitted_time": discharge + timedelta(days=9)})
    return tables
