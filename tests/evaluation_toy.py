"""A toy health system with given labels, its benchmark, and predictions of known skill, for the evaluation tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from lang1.common.artefact import new_folder
from lang1.evaluation.predictions import KIND, prediction_table, write_predictions
from lang1.records.store import RecordsMeta, new_records
from lang1.remede.benchmark import Benchmark
from lang1.remede.build import build
from lang1.remede.settings import BuildSettings

TASKS = ("readmission", "mortality", "length_of_stay")
FILLER = ("stable", "seen", "today", "pain", "cough", "walks", "sleeps", "eats", "aspirin", "insulin", "chest", "knee")
PAYERS = ("Medicare", "Medicaid", "private")


def make_records(out: Path, patients: int = 700, seed: int = 0) -> Path:
    """Records whose outcomes follow words of the notes, a structured field and the payer."""
    rng = np.random.default_rng(seed)
    rows: dict[str, list[dict[str, object]]] = {
        k: [] for k in ("patients", "encounters", "notes", "given_labels", "fields")
    }
    for p in range(patients):
        rows["patients"].append({"patient_id": f"p{p}", "sex": "female" if p % 2 else "male"})
        for stay in range(1 + p % 2):
            e = f"e{p}-{stay}"
            frail, payer, age = rng.random() < 0.4, PAYERS[int(rng.integers(3))], float(rng.integers(20, 95))
            pressure = float(rng.normal(90 if frail else 120, 15))
            words = list(rng.choice(FILLER, int(rng.integers(6, 14)))) + (["cachexia"] if frail else ["robust"])
            rng.shuffle(words)
            text = " ".join(words)
            rows["encounters"].append(
                {
                    "encounter_id": e,
                    "patient_id": f"p{p}",
                    "sequence": stay,
                    "encounter_class": "inpatient",
                    "department": "medicine",
                    "disposition": "home",
                    "age_at_admission": age,
                    "payer": payer,
                }
            )
            for kind in ("history_and_physical", "discharge_summary"):
                note = {"note_id": f"{e}-{kind}", "patient_id": f"p{p}", "encounter_id": e, "note_type": kind}
                rows["notes"].append({**note, "text": f"{kind}: {text}. Blood pressure {pressure:.0f}."})
            back = rng.random() < (0.45 if frail else 0.1) + 0.15 * (payer == "Medicaid")
            dead = rng.random() < (0.3 if frail else 0.05)
            days = int(rng.poisson(6 if frail else 2))
            for task, value in (("readmission", back), ("mortality", dead), ("length_of_stay", days)):
                rows["given_labels"].append({"encounter_id": e, "task": task, "value": str(int(value))})
            for name, number, word in (("pressure", pressure, None), ("payer", None, payer)):
                field = {"encounter_id": e, "field": name, "number": number, "text": word, "known_at": "admission"}
                rows["fields"].append(field)
    meta = RecordsMeta(system="Toy", time_basis="ordinal", source="made for a test", real=False)
    with new_records(out, meta) as draft:
        for table, found in rows.items():
            names = list(dict.fromkeys(name for row in found for name in row))
            draft.write_part(table, pa.table({name: [row.get(name) for row in found] for name in names}), 0)
    return out


def make_benchmark(records: Path, out: Path) -> Benchmark:
    """All three tasks, patients apart."""
    settings = {"tasks": TASKS, "calendar": None, "fractions": {"train": 0.5, "val": 0.1, "test": 0.4}}
    build(records, out, BuildSettings.model_validate(settings))
    return Benchmark.open(out)


def guesses(examples: pa.Table, n_classes: int, skill: float, seed: int) -> list[np.ndarray]:
    """Probabilities that lean to the right class by ``skill``."""
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(examples.num_rows, n_classes))
    table[np.arange(examples.num_rows), examples["label"].to_numpy()] += skill
    table = np.exp(table)
    return list(table / table.sum(axis=1, keepdims=True))


def write_guesses(
    out: Path,
    benchmark: Benchmark,
    model: str,
    regime: str,
    skill: float,
    seed: int = 0,
    splits: tuple[str, ...] = ("test",),
) -> Path:
    """A predictions folder of some skill for every example of the splits."""
    parts = [benchmark.examples([task], list(splits)) for task in benchmark.tasks]
    probabilities = [
        row
        for task, part in zip(benchmark.tasks, parts, strict=True)
        for row in guesses(part, len(benchmark.cards[task].options), skill, seed)
    ]
    with new_folder(out, KIND, inputs={"benchmark": benchmark.folder}) as draft:
        table = prediction_table(pa.concat_tables(parts), probabilities, model, regime)
        write_predictions(draft.path, table)
        draft.extra.update(model=model, regime=regime, cost={})
        draft.extra["benchmark"] = {"path": str(benchmark.folder.path), "fingerprint": benchmark.folder.fingerprint}
    return out
