"""Whole health systems on disk: records folders, and the truth about them in a folder of its own."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Iterator
from datetime import datetime, time, timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from lang1.common.artefact import Draft, new_folder
from lang1.common.predictions import PREDICTIONS
from lang1.common.progress import Meter
from lang1.records.store import CompleteThrough, RecordsMeta, VitalStatus, new_records, write_table_part
from lang1.simulator import course, note_table, tables
from lang1.simulator.clinic import ClinicYear, merged
from lang1.simulator.clock import paperwork
from lang1.simulator.copies import hospitals
from lang1.simulator.daily import daily
from lang1.simulator.identifiers import plant_identifiers
from lang1.simulator.leaks import plant
from lang1.simulator.oracle import NEWEST_NOTE, ORACLE, oracle
from lang1.simulator.presets import PRESETS
from lang1.simulator.settings import SIMULATOR_VERSION, SimulatorSettings
from lang1.simulator.styles import System
from lang1.simulator.visits import visits

TRUTH = "truth"
READERS = {ORACLE: "", NEWEST_NOTE: "-newest-note"}  # the truths by who reads what, and how their folders' names end
OPTIONAL = ("leaks", "identifiers", "contrast", "copies", "longitudinal")  # settings that are named only where used
MOST_WORKERS = 8


def simulate(out: Path, settings: SimulatorSettings) -> list[Path]:
    """Simulate health systems: ``OUT/<system>/`` (records) and ``OUT/truth/<system>/`` (oracle predictions).

    A longitudinal world has ``OUT/truth/<system>-newest-note/`` too: the same for who reads the newest note alone.

    Returns the records folders, one a system. The same settings give the same bytes whatever ``workers`` says;
    memory depends on ``chunk_patients`` and the number of workers, not on ``patients``.

    Raises:
        ArtefactError: ``out`` exists already.
    """
    out = Path(out)
    # The number of processes changes no byte, so it does not enter the manifest either, nor does what is not asked for.
    usual = {name: field.default for name, field in SimulatorSettings.model_fields.items() if name in OPTIONAL}
    unasked = {name for name, default in usual.items() if getattr(settings, name) == default}
    said = settings.model_dump(mode="json", exclude={"workers"} | unasked)
    with new_folder(out, "simulation", settings=said) as draft:
        draft.extra["simulator_version"] = SIMULATOR_VERSION
        systems = hospitals(settings)
        for index, hospital in enumerate(systems):
            draft.counts[hospital.name] = _one_system(draft, index, hospital, settings, said)
        draft.extra["systems"] = [hospital.name for hospital in systems]
    return [out / hospital.name for hospital in systems]


def _one_system(
    draft: Draft, index: int, hospital: System, settings: SimulatorSettings, said: dict[str, object]
) -> dict[str, int]:
    aside = draft.path / f".{hospital.name}-truth"
    for name in READERS:
        (aside / name).mkdir(parents=True)
    with new_records(draft.path / hospital.name, _meta(hospital, settings), settings=said) as records:
        jobs = [
            (settings.model_dump(mode="json"), index, chunk, str(records.path), str(aside))
            for chunk in range(-(-settings.patients // settings.chunk_patients))
        ]
        counts: dict[str, int] = {}
        with Meter(f"simulate {hospital.name}", settings.patients, "patients") as meter:
            for done in _map(jobs, settings.workers):
                meter.add(done.pop("patients"))
                for key, value in done.items():
                    counts[key] = counts.get(key, 0) + value
        records.extra["simulator_version"] = SIMULATOR_VERSION
        if settings.leaks:
            records.extra["planted_leaks"] = plant(records.path, settings.leaks)
        known = aside / "identifiers"
        if settings.identifiers:
            known.mkdir()
            planted = plant_identifiers(records.path, known, hospital.name, settings.seed)
            records.extra["planted_identifiers"] = planted
    _write_truth(draft, hospital, ORACLE, aside, said)
    if settings.longitudinal:
        _write_truth(draft, hospital, NEWEST_NOTE, aside, said)
    shutil.rmtree(aside)
    return counts


def _write_truth(draft: Draft, hospital: System, model: str, aside: Path, said: dict[str, object]) -> None:
    """One folder of oracle predictions from the parts that lie aside; with the main one the truth about identifiers."""
    name = hospital.name + READERS[model]
    with new_folder(draft.path / TRUTH / name, "predictions", settings=said) as truth:
        truth.extra.update(model=model, regime="oracle", system=hospital.name, simulator_version=SIMULATOR_VERSION)
        rows = 0
        with pq.ParquetWriter(truth.path / "predictions.parquet", PREDICTIONS, compression="zstd") as writer:
            for file in sorted((aside / model).glob("*.parquet")):
                part = pq.read_table(file, schema=PREDICTIONS)
                rows += part.num_rows
                writer.write_table(part)
        truth.counts["rows"] = rows
        known = aside / "identifiers"
        if model == ORACLE and known.is_dir():
            for file in sorted(known.iterdir()):
                file.rename(truth.path / file.name)


def _meta(hospital: System, settings: SimulatorSettings) -> RecordsMeta:
    through = datetime.combine(settings.end_date, time(23, 59, 59))
    claims = through + timedelta(days=tables.CLAIMS_FEED_DAYS)
    return RecordsMeta(
        system=hospital.name,
        time_basis="calendar",
        complete_through={
            "encounters": CompleteThrough(through=through, key="admit_time"),
            "notes": CompleteThrough(through=through, key="available_time"),
            "diagnoses": CompleteThrough(through=through, key="discharge_time"),
            "claims": CompleteThrough(through=claims, key="final_time"),
        },
        vital_status=VitalStatus(source="both", through=through),
        source=f"lang1 simulator {SIMULATOR_VERSION}, preset {settings.preset}, seed {settings.seed}"
        + (", charts over time" if settings.longitudinal else ""),
        real=False,
        licence="CC0-1.0",
    )


Job = tuple[dict[str, object], int, int, str, str]


def _map(jobs: list[Job], workers: int | None) -> Iterator[dict[str, int]]:
    wanted = workers or min(os.cpu_count() or 1, MOST_WORKERS)
    if min(wanted, len(jobs)) == 1:
        yield from map(_chunk, jobs)
        return
    with multiprocessing.get_context("spawn").Pool(min(wanted, len(jobs))) as pool:
        yield from pool.imap_unordered(_chunk, jobs)


def _chunk(job: Job) -> dict[str, int]:
    """Make one chunk of patients and write its part of every table; runs in a worker process."""
    raw, index, chunk, place, aside = job
    settings = SimulatorSettings.model_validate(raw)
    spec, hospital = PRESETS[settings.preset], hospitals(settings)[index]
    n = min(settings.chunk_patients, settings.patients - chunk * settings.chunk_patients)
    # One stream a chunk, and within it one a concern, so that a change to one does not move the others.
    seeds = np.random.SeedSequence(settings.seed, spawn_key=(hospital.stream, chunk)).spawn(6)
    lives, clock, money, words, year, courses = (np.random.Generator(np.random.Philox(s)) for s in seeds)
    between = ClinicYear(n, year) if settings.longitudinal else None
    people, stays = course.run(n, settings, spec, hospital, lives, between)
    papers = paperwork(stays, hospital, clock)
    unresolved = clock.random(len(stays.admit)) < hospital.unresolved
    ids = tables.Ids(hospital, chunk, settings)
    other = visits(people, stays, ids.end, spec, clock)
    if between is not None:
        other = merged(other, between.visits(people))
    days = daily(stays, courses) if settings.longitudinal else None
    made = {
        "patients": tables.patients(ids, people, hospital),
        "encounters": tables.encounters(ids, people, stays, other, hospital),
        "diagnoses": tables.diagnoses(ids, stays, papers, money),
        "claims": tables.claims(ids, stays, other, hospital, unresolved, money),
        "notes": note_table.notes(ids, people, stays, papers, other, hospital, spec, words, days),
    }
    if days is not None:
        made["unit_stays"] = tables.unit_stays(ids, stays, days)
    for table, data in made.items():
        write_table_part(Path(place), table, data, chunk)
    for model, truth in oracle(ids, stays, papers, unresolved, spec, days).items():
        pq.write_table(truth, Path(aside) / model / f"{chunk:06d}.parquet", compression="zstd")
    return {"patients": n, "encounters": made["encounters"].num_rows, "inpatient": len(stays.admit)}
