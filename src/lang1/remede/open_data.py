"""ReMedE-open: benchmarks with real labels from open data, made where the user keeps that data.

Nothing of it ships with lang1 but Diabetes-130 (CC BY 4.0): the MIMIC and eICU demos are under the ODbL, and so is what
is made from them. For each data set that is found, a records folder and a benchmark are written, and what the data set
can and cannot say is kept with them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lang1.common.artefact import new_folder
from lang1.common.errors import ArtefactError, InputError
from lang1.common.identity import patient_hash
from lang1.common.predictions import PREDICTIONS, example_id
from lang1.common.progress import say
from lang1.records.readers.diabetes130 import Diabetes130Settings, ingest_diabetes130
from lang1.records.readers.eicu import EicuSettings, apache_predictions, ingest_eicu
from lang1.records.readers.mimic_iv import MimicIVSettings, ingest_mimic_iv
from lang1.records.readers.source import find_table
from lang1.records.store import Records
from lang1.remede.build import build
from lang1.remede.settings import BuildSettings

APACHE = "APACHE IVa"


@dataclass(frozen=True)
class OpenSet:
    """One open data set: how it is recognised and read, which tasks it supports, and what it cannot say.

    Attributes:
        found: whether a folder holds it.
        ingest: source folder, records folder to write.
        settings: of the benchmark.
        limits: in plain words, printed and kept.
        extras: what else is written beside the benchmark, e.g. a published score's predictions.
    """

    found: Callable[[Path], bool]
    ingest: Callable[[Path, Path], Path]
    settings: dict[str, Any]
    limits: str
    extras: dict[str, Callable[[Path, Path, Path], Path]] = field(default_factory=dict)


def build_open(source: Path, out: Path) -> list[Path]:
    """Build a benchmark of every open data set that lies in ``source`` or in a folder inside it.

    Args:
        source: a folder that holds data sets, or one of them.
        out: the folder to write: ``records/NAME`` and ``NAME`` for each set. Sets that are there already are kept.

    Returns:
        The benchmark folders.

    Raises:
        InputError: the folder is missing, or holds none of the sets.
    """
    if not source.is_dir():
        raise InputError(f"{source}: no such folder; name the one that holds the open data sets.")
    places = [source, *sorted(path for path in source.iterdir() if path.is_dir())]
    at = {name: next((place for place in places if known.found(place)), None) for name, known in OPEN_SETS.items()}
    if not any(at.values()):
        raise InputError(
            f"{source}: none of the open data sets is here or one folder below: diabetic_data.csv (Diabetes 130-US), "
            "the patient table of eICU, or hosp/admissions of MIMIC-IV."
        )
    made = []
    for name, place in at.items():
        if place is None:
            say(f"{name}: not found, left aside.")
            continue
        made.append(_one(name, OPEN_SETS[name], place, out))
    return made


def _one(name: str, known: OpenSet, place: Path, out: Path) -> Path:
    records, benchmark = out / "records" / name, out / name
    out.mkdir(parents=True, exist_ok=True)
    (out / "records").mkdir(exist_ok=True)
    if not records.exists():
        known.ingest(place, records)
    if not benchmark.exists():
        try:
            build(records, benchmark, BuildSettings.model_validate(known.settings))
        except ArtefactError as error:
            raise ArtefactError(f"{error} Remove {records} to read {name} again.") from error
    for extra, write in known.extras.items():
        if not (out / extra).exists():
            write(place, records, out / extra)
    say(f"{name}: {benchmark}. {known.limits}")
    return benchmark


def _apache(place: Path, records: Path, out: Path) -> Path:
    """APACHE's probability of death as predictions: the published peer, given the same 24 hours."""
    probability = apache_predictions(place)
    with Records.open(records).connect() as connection:
        patients = dict(connection.execute("SELECT encounter_id, patient_id FROM encounters ORDER BY 1").fetchall())
    rows = [
        {
            "example_id": example_id("mortality", stay),
            "task": "mortality",
            "encounter_id": stay,
            "subject_id": patient_hash(patients[stay]),
            "model": APACHE,
            "regime": "baseline",
            "probabilities": [1 - p, p],
        }
        for stay, p in probability.items()
        if stay in patients
    ]
    with new_folder(out, "predictions", inputs={"records": Records.open(records).folder}) as draft:
        pq.write_table(pa.Table.from_pylist(rows, schema=PREDICTIONS), draft.path / "predictions.parquet")
        draft.counts["predictions"] = len(rows)
        draft.extra.update(model=APACHE, regime="baseline", cost={}, parameters=None)
    return out


def _has(*names: str) -> Callable[[Path], bool]:
    def look(place: Path) -> bool:
        return any((place / name).is_file() for name in names)

    return look


def _is_eicu(place: Path) -> bool:
    return any("patienthealthsystemstayid" in [c.lower() for c in f.columns] for f in find_table(place, "patient"))


def _diabetes(place: Path, records: Path) -> Path:
    return ingest_diabetes130(records, Diabetes130Settings(source=place))


def _eicu(place: Path, records: Path) -> Path:
    return ingest_eicu(place, records, EicuSettings())


def _mimic_iv(place: Path, records: Path) -> Path:
    return ingest_mimic_iv(place, records, MimicIVSettings(render_notes=True))


OPEN_SETS: dict[str, OpenSet] = {
    "diabetes-130": OpenSet(
        _has("diabetic_data.csv", "diabetic_data.csv.gz", "diabetic_data.csv.xz"),
        _diabetes,
        {"tasks": ["readmission", "mortality", "length_of_stay", "comorbidity"], "calendar": None},
        "Real outcomes of 130 hospitals, notes rendered from the fields; patients with diabetes only, no dates, three "
        "codes a stay.",
    ),
    "eicu": OpenSet(
        _is_eicu,
        _eicu,
        {"tasks": ["mortality", "length_of_stay"], "calendar": None, "held_out_site_fraction": 0.3},
        "Real stays in intensive care, the first 24 hours as text; three in ten hospitals are kept for the split "
        "held_out_site. Returns cannot be labelled: nothing is known between stays.",
        {"eicu-apache": _apache},
    ),
    "mimic-iv-demo": OpenSet(
        lambda place: bool((place / "hosp").is_dir() and find_table(place / "hosp", "admissions")),
        _mimic_iv,
        {
            "tasks": ["readmission", "mortality", "length_of_stay", "comorbidity"],
            "calendar": None,
            "mark_unsupported": "all",
        },
        "A check of plumbing and censoring, not of accuracy: 100 patients, all of whom were in intensive care or the "
        "emergency department.",
    ),
}
