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
from lang1.simulator.clock import paperwork
from lang1.simulator.identifiers import plant_identifiers
from lang1.simulator.leaks import plant
from lang1.simulator.oracle import oracle
from lang1.simulator.presets import PRESETS
from lang1.simulator.settings import SIMULATOR_VERSION, SimulatorSettings
from lang1.simulator.styles import System, system
from lang1.simulator.visits import visits

TRUTH = "truth"
MOST_WORKERS = 8


def simulate(out: Path, settings: SimulatorSettings) -> list[Path]:
    """Simulate health systems: ``OUT/<system>/`` (records) and ``OUT/truth/<system>/`` (oracle predictions).

    Returns the records folders, one a system. The same settings give the same bytes whatever ``workers`` says;
    memory depends on ``chunk_patients`` and the number of workers, not on ``patients``.

    Raises:
        ArtefactError: ``out`` exists already.
    """
    out = Path(out)
    # The number of processes changes no byte, so it does not enter the manifest either, nor does what is not asked for.
    unasked = {name for name in ("leaks", "identifiers") if not getattr(settings, name)}
    said = settings.model_dump(mode="json", exclude={"workers"} | unasked)
    with new_folder(out, "simulation", settings=said) as draft:
        draft.extra["simulator_version"] = SIMULATOR_VERSION
        names = []
        for index in range(settings.systems):
            hospital = system(index)
            names.append(hospital.name)
            draft.counts[hospital.name] = _one_system(draft, index, hospital, settings, said)
        draft.extra["systems"] = names
    return [out / name for name in names]


def _one_system(
    draft: Draft, index: int, hospital: System, settings: SimulatorSettings, said: dict[str, object]
) -> dict[str, int]:
    aside = draft.path / f".{hospital.name}-truth"
    aside.mkdir(parents=True)
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
    with new_folder(draft.path / TRUTH / hospital.name, "predictions", settings=said) as truth:
        truth.extra.update(model="oracle", regime="oracle", system=hospital.name, simulator_version=SIMULATOR_VERSION)
        rows = 0
        with pq.ParquetWriter(truth.path / "predictions.parquet", PREDICTIONS, compression="zstd") as writer:
            for file in sorted(aside.glob("*.parquet")):
                part = pq.read_table(file, schema=PREDICTIONS)
                rows += part.num_rows
                writer.write_table(part)
        truth.counts["rows"] = rows
        if settings.identifiers:
            for file in sorted(known.iterdir()):
                file.rename(truth.path / file.name)
    shutil.rmtree(aside)
    return counts


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
        source=f"lang1 simulator {SIMULATOR_VERSION}, preset {settings.preset}, seed {settings.seed}",
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
    spec, hospital = PRESETS[settings.preset], system(index)
    n = min(settings.chunk_patients, settings.patients - chunk * settings.chunk_patients)
    # One stream a chunk, and within it one a concern, so that a change to one does not move the others.
    seeds = np.random.SeedSequence(settings.seed, spawn_key=(index, chunk)).spawn(4)
    lives, clock, money, words = (np.random.Generator(np.random.Philox(s)) for s in seeds)
    people, stays = course.run(n, settings, spec, hospital, lives)
    papers = paperwork(stays, hospital, clock)
    unresolved = clock.random(len(stays.admit)) < hospital.unresolved
    ids = tables.Ids(hospital, chunk, settings)
    other = visits(people, stays, ids.end, spec, clock)
    made = {
        "patients": tables.patients(ids, people, hospital),
        "encounters": tables.encounters(ids, people, stays, other, hospital),
        "diagnoses": tables.diagnoses(ids, stays, papers, money),
        "claims": tables.claims(ids, stays, other, hospital, unresolved, money),
        "notes": note_table.notes(ids, people, stays, papers, other, hospital, spec, words),
    }
    for table, data in made.items():
        write_table_part(Path(place), table, data, chunk)
    truth = oracle(ids, stays, papers, unresolved, spec)
    pq.write_table(truth, Path(aside) / f"{chunk:06d}.parquet", compression="zstd")
    return {"patients": n, "encounters": made["encounters"].num_rows, "inpatient": len(stays.admit)}
