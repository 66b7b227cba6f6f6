"""Predictions folders: own models, Hugging Face generalists, baselines, and predictions made elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lang1.common.artefact import Draft, Folder, InputRef, content_fingerprint, file_sha256, new_folder, open_folder
from lang1.common.errors import InputError, SettingsError
from lang1.common.identity import read_patient_hashes
from lang1.common.predictions import REGIMES
from lang1.common.progress import QUIET_SECONDS, Meter, say
from lang1.evaluation.examples import Asked, asked
from lang1.evaluation.predictions import (
    FILE,
    KIND,
    place_of,
    prediction_table,
    probability_matrix,
    read_prediction_file,
    write_predictions,
)
from lang1.evaluation.scorers.baselines import BASELINES
from lang1.evaluation.settings import DEFAULT_NOTE_BUDGET, EvaluateSettings
from lang1.metrics.auroc import Floats
from lang1.model.answering import score_groups
from lang1.model.precision import pick_device, pick_dtype
from lang1.model.store import load_model
from lang1.remede.benchmark import Benchmark
from lang1.text.clean import clean_note

MOST_IDS_SHOWN = 3


@dataclass
class Answers:
    """What a scorer says of examples, in any order; brought into the benchmark's order when written."""

    example_ids: list[str]
    probabilities: list[Floats]
    option_mass: list[float] | None = None
    truncated: list[int] | None = None


def evaluate_model(
    model: Path,
    benchmark: Path,
    out: Path,
    settings: EvaluateSettings,
    *,
    regime: str,
    name: str | None = None,
) -> Path:
    """Score a model of this package: softmax over the option letters, questions about one note sharing its pass.

    Args:
        model: model folder.
        benchmark: benchmark folder.
        out: predictions folder to write.
        settings: what is scored and how notes are cut.
        regime: zero-shot, finetuned or joint.
        name: the model's name in tables; None takes the name in its configuration.

    Raises:
        ArtefactError: a folder is missing, damaged or of another kind.
        SettingsError: an unknown task, split or regime.
    """
    _known_regime(regime)
    folder, bench = open_folder(model, "model"), Benchmark.open(benchmark)
    chosen = asked(bench, settings)
    device = pick_device(settings.device)
    loaded = load_model(model, device, pick_dtype(device, settings.precision))
    budget, truncation = note_limits(folder, settings)
    name = name or loaded.model.name
    with _drafted(out, chosen, settings, {"model": folder}) as draft:
        started = time.monotonic()
        with Meter(f"{name}, {regime}", chosen.examples.num_rows, "examples") as meter:
            table = score_groups(
                loaded.model,
                loaded.tokenizer,
                chosen.groups(),
                chosen.questions(),
                chosen.n_options(),
                budget,
                truncation,
                settings.tokens_per_batch,
                meter,
            )
        rows = range(len(table))
        answers = Answers(
            table.example_ids,
            [table.probabilities(i) for i in rows],
            [table.option_mass(i) for i in rows],
            table.truncated,
        )
        draft.extra.update(
            cost=_cost(table.tokens, started, str(device)),
            parameters=folder.manifest.extra.get("parameters"),
            note_budget=budget,
            truncation=truncation,
            training_seed=folder.manifest.settings.get("seed"),
            seen_subjects=_seen(folder, chosen.examples),
            overlap=list(folder.manifest.extra.get("overlap", [])),
        )
        _fill(draft, chosen, answers, name, regime)
    return out


def evaluate_generalist(
    folder: Path,
    benchmark: Path,
    out: Path,
    settings: EvaluateSettings,
    *,
    name: str | None = None,
    regime: str = "zero-shot",
) -> Path:
    """Score any Hugging Face causal language model folder by its option letters; see ``scorers/generalist.py``.

    Raises:
        ArtefactError: transformers is missing, or the folder cannot be used.
    """
    from lang1.evaluation.scorers.generalist import Generalist, Prompted, softmax

    _known_regime(regime)
    bench = Benchmark.open(benchmark)
    chosen = asked(bench, settings)
    scorer = Generalist(folder, settings.device, settings.precision)
    name = name or folder.name
    budget, truncation = settings.note_budget or DEFAULT_NOTE_BUDGET, settings.truncation or "head"
    ids: list[str] = []
    prompts: list[Prompted] = []
    for group in chosen.groups():
        text = clean_note(group.text)
        for item in group.items:
            ids.append(item.example_id)
            prompts.append(Prompted(text, item.task, group.chart))
    ref = InputRef(path=str(folder.resolve()), kind="huggingface", fingerprint=content_fingerprint(folder))
    with _drafted(out, chosen, settings, {"model": ref}) as draft:
        started = time.monotonic()
        with Meter(f"{name}, {regime}", len(prompts), "examples") as meter:
            found = scorer.answer(
                prompts, chosen.questions(), chosen.n_options(), budget, truncation, settings.tokens_per_batch, meter
            )
        answers = Answers(
            ids,
            [softmax(answer.log_probabilities) for answer in found],
            [float(np.exp(answer.log_probabilities).sum()) for answer in found],
            [answer.truncated for answer in found],
        )
        draft.extra.update(
            cost=_cost(scorer.tokens, started, str(scorer.device)),
            parameters=scorer.parameters,
            note_budget=budget,
            truncation=truncation,
        )
        _fill(draft, chosen, answers, name, regime)
    return out


def evaluate_baseline(name: str, benchmark: Path, out: Path, settings: EvaluateSettings) -> Path:
    """Train one baseline on the benchmark's train rows and score it on the examples that the models are scored on.

    Args:
        name: one of ``scorers.baselines.BASELINES``.

    Raises:
        SettingsError: an unknown baseline.
        InputError: what it reads is not there (e.g. no structured fields in the records).
    """
    if name not in BASELINES:
        raise SettingsError(f"unknown baseline '{name}'; known are {', '.join(BASELINES)}.")
    chosen = asked(Benchmark.open(benchmark), settings)
    with _drafted(out, chosen, settings, {}) as draft:
        started = time.monotonic()
        trained = BASELINES[name](chosen, settings)
        if not trained.probabilities:
            raise InputError(f"baseline {name}: no task can be trained ({'; '.join(trained.left_out)}).")
        ids: list[str] = []
        rows: list[Floats] = []
        for task, table in trained.probabilities.items():
            ids += chosen.of(task)["example_id"].to_pylist()
            rows += list(table)
        for reason, count in trained.left_out.items():
            draft.leave_out(reason, count)
        draft.extra.update(
            cost=_cost(None, started, "cpu"), parameters=None, about=trained.about, chosen=trained.chosen
        )
        _fill(draft, chosen, Answers(ids, rows), name, "baseline")
    seconds = time.monotonic() - started
    if seconds > QUIET_SECONDS:
        say(f"baseline {name}: {len(trained.probabilities)} tasks in {seconds:.0f} s")
    return out


def import_predictions(
    file_or_folder: Path,
    benchmark: Path,
    out: Path,
    settings: EvaluateSettings,
    name: str = "oracle",
    regime: str = "oracle",
) -> Path:
    """Take predictions made elsewhere, e.g. the simulator's oracle; the one reader of a ``truth/`` folder.

    Rows are matched on ``example_id``; rows of no example of this evaluation are counted and left.

    Raises:
        ArtefactError: the file is missing or not Parquet.
        InputError: a missing column, an example twice or not at all (unless ``allow_missing``), probabilities that
            are NaN, do not sum to 1 or are of another number of classes.
    """
    _known_regime(regime)
    file = file_or_folder / FILE if file_or_folder.is_dir() else file_or_folder
    chosen = asked(Benchmark.open(benchmark), settings)
    table = read_prediction_file(file)
    ids = chosen.examples["example_id"].to_pylist()
    place = place_of(table, ids)
    lacking = np.flatnonzero(place < 0)
    if len(lacking) and not settings.allow_missing:
        shown = ", ".join(ids[i] for i in lacking[:MOST_IDS_SHOWN])
        raise InputError(
            f"{file}: {len(lacking)} of {len(ids)} examples are missing, first {shown}; add them, name only the tasks "
            "that it holds (tasks=[…]), or set allow_missing=true."
        )
    if len(lacking) == len(ids):
        raise InputError(f"{file}: none of its examples is in the benchmark; is it of another system?")
    answers = Answers([], [])
    mass: dict[str, float | None] = {}
    for task, n_classes in chosen.n_options().items():
        wanted = chosen.of(task)["example_id"].to_pylist()
        rows = place_of(table, wanted)
        held = [example for example, row in zip(wanted, rows, strict=True) if row >= 0]
        part = table.take(pa.array(rows[rows >= 0]))
        answers.example_ids += held
        answers.probabilities += list(probability_matrix(part["probabilities"], n_classes, held, str(file)))
        mass |= dict(zip(held, part["option_mass"].to_pylist(), strict=True))
    if all(value is not None for value in mass.values()):
        answers.option_mass = [float(mass[e] or 0.0) for e in answers.example_ids]
    ref = InputRef(path=str(file.resolve()), kind="predictions", fingerprint=file_sha256(file))
    with _drafted(out, chosen, settings, {"file": ref}) as draft:
        draft.leave_out("examples without a prediction", len(lacking))
        draft.extra.update(cost={}, parameters=None, rows_not_asked=table.num_rows - len(ids) + len(lacking))
        _fill(draft, chosen, answers, name, regime)
    return out


def note_limits(folder: Folder, settings: EvaluateSettings) -> tuple[int, Any]:
    """Note budget and truncation: as set, else as the model was finetuned, else 512 tokens and the head."""
    made = folder.manifest.extra
    budget = settings.note_budget or made.get("note_budget") or DEFAULT_NOTE_BUDGET
    return int(budget), settings.truncation or made.get("truncation") or "head"


@contextmanager
def _drafted(
    out: Path, chosen: Asked, settings: EvaluateSettings, inputs: Mapping[str, Folder | InputRef]
) -> Iterator[Draft]:
    bench = chosen.benchmark.folder
    with new_folder(out, KIND, inputs={**inputs, "benchmark": bench}, settings=settings) as draft:
        draft.extra["benchmark"] = {"path": str(bench.path.resolve()), "fingerprint": bench.fingerprint}
        yield draft


def _fill(draft: Draft, chosen: Asked, answers: Answers, name: str, regime: str) -> None:
    examples, order = _in_order(chosen.examples, answers.example_ids)
    table = prediction_table(
        examples,
        [answers.probabilities[i] for i in order],
        name,
        regime,
        None if answers.option_mass is None else [answers.option_mass[i] for i in order],
        None if answers.truncated is None else [answers.truncated[i] for i in order],
    )
    write_predictions(draft.path, table)
    draft.counts["examples"] = table.num_rows
    tasks = sorted(set(examples["task"].to_pylist()))
    draft.extra.update(model=name, regime=regime, splits=list(chosen.splits), tasks=tasks)


def _cost(tokens: int | None, started: float, device: str) -> dict[str, Any]:
    return {"tokens": tokens, "seconds": round(time.monotonic() - started, 2), "device": device}


def _in_order(examples: pa.Table, answered: Sequence[str]) -> tuple[pa.Table, npt.NDArray[np.int64]]:
    """The answered examples in the evaluation's order, and where each one's answer stands."""
    where = {example: i for i, example in enumerate(answered)}
    assert len(where) == len(answered)
    order = np.array([where.get(e, -1) for e in examples["example_id"].to_pylist()], dtype=np.int64)
    return examples.filter(pa.array(order >= 0)), order[order >= 0]


def _seen(folder: Folder, examples: pa.Table) -> dict[str, int]:
    """Patients of each evaluated split whose text the model was trained on."""
    hashes = read_patient_hashes(folder.path)
    subjects = np.asarray(examples["subject_id"].to_numpy(zero_copy_only=False))
    split = np.asarray(examples["split"].to_pylist(), dtype=object)
    found: Iterable[tuple[str, int]] = (
        (str(s), int(np.isin(np.unique(subjects[split == s]), hashes).sum())) for s in sorted(set(split.tolist()))
    )
    return dict(found)


def _known_regime(regime: str) -> None:
    if regime not in REGIMES:
        raise SettingsError(f"regime '{regime}': expected one of {', '.join(REGIMES)}.")
