"""Predictions folders: own models, Hugging Face generalists, baselines, and predictions made elsewhere."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lang1.common.artefact import (
    Draft,
    Folder,
    InputRef,
    content_fingerprint,
    file_sha256,
    new_folder,
    open_folder,
    partial_path,
)
from lang1.common.errors import InputError, SettingsError
from lang1.common.identity import read_patient_hashes
from lang1.common.predictions import REGIMES
from lang1.common.progress import QUIET_SECONDS, Meter, say
from lang1.evaluation import shards
from lang1.evaluation.asking import GIVEN, SWAPPED, train_shares, variants
from lang1.evaluation.examples import Asked, asked
from lang1.evaluation.journal import SUFFIX, Journal
from lang1.evaluation.predictions import (
    FILE,
    KIND,
    place_of,
    prediction_table,
    probability_matrix,
    read_prediction_file,
    write_predictions,
)
from lang1.evaluation.replies import Reply, about_answers, merged
from lang1.evaluation.scorers.baselines import BASELINES
from lang1.evaluation.scorers.local import Kind
from lang1.evaluation.scorers.server import Server, cost_of, replies_of
from lang1.evaluation.scorers.server_settings import ServerSettings, read_server
from lang1.evaluation.settings import DEFAULT_NOTE_BUDGET, EvaluateSettings
from lang1.evaluation.shards import FREE, JOB, Job, answer_all, answer_ranks, plain, torchrun_rank
from lang1.metrics.auroc import Floats
from lang1.remede.benchmark import Benchmark

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
        out: predictions folder to write; a run that was stopped goes on.
        settings: what is scored and how notes are cut.
        regime: zero-shot, finetuned or joint; zero-shot becomes few-shot with ``shots``.
        name: the model's name in tables; None takes the name in its configuration.

    Raises:
        ArtefactError: a folder is missing, damaged or of another kind.
        SettingsError: an unknown task, split or regime.
        InputError: scores that are no numbers, or too few train rows for the shots.
    """
    folder = open_folder(model, "model")
    return _evaluate_local("own", folder.ref(), folder, benchmark, out, settings, regime, name)


def evaluate_generalist(
    folder: Path,
    benchmark: Path,
    out: Path,
    settings: EvaluateSettings,
    *,
    name: str | None = None,
    regime: str = "zero-shot",
) -> Path:
    """Score a model that is not this package's own: a Hugging Face causal LM folder, or a server described in a YAML.

    See ``scorers/generalist.py`` and ``scorers/server_settings.py``; arguments as for :func:`evaluate_model`.

    Raises:
        ArtefactError: transformers is missing, or the folder cannot be used.
        SettingsError: the server's description is wrong, or its address lies outside and may not.
        ServerError: the server failed for good, or would cost more than permitted; what was answered is kept.
    """
    if folder.is_file():
        return evaluate_server(folder, benchmark, out, settings, name=name, regime=regime)
    ref = InputRef(path=str(folder.resolve()), kind="huggingface", fingerprint=content_fingerprint(folder))
    return _evaluate_local("huggingface", ref, None, benchmark, out, settings, regime, name or folder.name)


def _evaluate_local(
    kind: Kind,
    ref: InputRef,
    folder: Folder | None,
    benchmark: Path,
    out: Path,
    settings: EvaluateSettings,
    regime: str,
    name: str | None,
) -> Path:
    regime, shots = _with_shots(regime, settings)
    bench = Benchmark.open(benchmark)
    chosen = asked(bench, settings)
    budget, truncation = note_limits(folder, settings)
    job = Job(
        kind=kind,
        model=Path(ref.path),
        model_fingerprint=ref.fingerprint,
        benchmark=benchmark.resolve(),
        benchmark_fingerprint=bench.folder.fingerprint,
        settings=plain(settings),
        note_budget=budget,
        truncation=truncation,
        shots=shots,
        notes=shards.NOTES,
        what=f"{name or Path(ref.path).name}, {regime}",
    )
    rank, world = torchrun_rank()
    if rank:
        partial_path(out).mkdir(parents=True, exist_ok=True)
        answer_ranks(job, partial_path(out))
        return out
    with _drafted(out, chosen, settings, {"model": ref}) as draft:
        started = time.monotonic()
        found = answer_all(job, draft.path) if world == 1 else answer_ranks(job, draft.path)
        assert found is not None
        replies, tokens, facts = found
        _tidy(draft)
        draft.extra.update(
            cost=_cost(tokens, started, facts["device"]),
            parameters=facts["parameters"],
            note_budget=budget,
            truncation=truncation,
        )
        if folder is not None:
            draft.extra.update(
                parameters=folder.manifest.extra.get("parameters"),
                training_seed=folder.manifest.settings.get("seed"),
                seen_subjects=_seen(folder, chosen.examples),
                overlap=list(folder.manifest.extra.get("overlap", [])),
            )
        _fill_replies(draft, chosen, settings, replies, shots, name or str(facts["name"]), regime)
    return out


def evaluate_server(
    file: Path,
    benchmark: Path,
    out: Path,
    settings: EvaluateSettings,
    *,
    name: str | None = None,
    regime: str = "zero-shot",
) -> Path:
    """Score a served model; see ``scorers/server_settings.py`` for its description and :func:`evaluate_model`.

    A run that was stopped goes on, also under a higher cap; every example is answered once.
    """
    regime, shots = _with_shots(regime, settings)
    server = read_server(file)
    chosen = asked(Benchmark.open(benchmark), settings)
    name = name or server.shown
    budget, truncation = note_limits(None, settings)
    ref = InputRef(path=str(file.resolve()), kind="server", fingerprint=file_sha256(file))
    run = {
        "server": server.identity(),
        "benchmark": chosen.benchmark.folder.fingerprint,
        "settings": plain(settings).model_dump(mode="json", exclude=FREE),
        "shots": shots,
    }
    with _drafted(out, chosen, settings, {"model": ref}) as draft:
        started = time.monotonic()
        rules = {task: _rule(server, chosen, task) for task in chosen.tasks}
        with Journal(draft.path / f"answers{SUFFIX}", run) as journal:
            scorer = Server(server, journal, seed=settings.seed, note_budget=budget, policy=truncation, rules=rules)
            try:
                ways = variants(chosen, settings, shots, scorer.cut)
                total = sum(way.asked.examples.num_rows for way in ways)
                with Meter(f"{name}, {regime}", total, "examples") as meter:
                    for way in ways:
                        scorer.answer(way.name, way.asked.groups(), way.questions, meter)
            finally:
                scorer.client.close()
            replies = {way.name: replies_of(journal, way.name) for way in ways}
            cost = cost_of(journal, server.currency)
        draft.extra.update(
            cost={**_cost(cost["prompt_tokens"] + cost["answer_tokens"], started, "server"), **cost},
            parameters=None,
            note_budget=budget,
            truncation=truncation,
            server=server.model_dump(mode="json", exclude={"url"}),
            unparsed_rule=server.unparsed,
        )
        _fill_replies(draft, chosen, settings, replies, shots, name, regime)
    return out


def _with_shots(regime: str, settings: EvaluateSettings) -> tuple[str, int]:
    """The regime and how many solved examples it gets: only a model that was not finetuned gets any."""
    _known_regime(regime)
    if settings.shots and regime in ("zero-shot", "few-shot"):
        return "few-shot", settings.shots
    return regime, 0


def _rule(server: ServerSettings, chosen: Asked, task: str) -> Floats:
    classes = chosen.n_options()[task]
    return train_shares(chosen, task) if server.unparsed == "train" else np.full(classes, 1 / classes)


def _tidy(draft: Draft) -> None:
    """Remove what processes wrote for each other."""
    for pattern in ("answers-*", "process-*.log", JOB):
        for file in draft.path.glob(pattern):
            file.unlink()


def _fill_replies(
    draft: Draft,
    chosen: Asked,
    settings: EvaluateSettings,
    replies: Mapping[str, Mapping[str, Reply]],
    shots: int,
    name: str,
    regime: str,
) -> None:
    averaged = settings.order == "averaged"
    answers = Answers([], [], [], [])
    assert answers.option_mass is not None and answers.truncated is not None
    for example, reply in replies[GIVEN].items():
        probabilities, mass = merged(reply, replies[SWAPPED][example] if averaged else None)
        answers.example_ids.append(example)
        answers.probabilities.append(probabilities)
        answers.option_mass.append(mass)
        answers.truncated.append(reply.truncated)
    tasks = {task: chosen.of(task)["example_id"].to_pylist() for task in chosen.tasks}
    draft.extra.update(
        answering=about_answers(replies, GIVEN, tasks),
        order=settings.order,
        shots=shots,
        prompts=_prompt_prints(chosen),
    )
    _fill(draft, chosen, answers, name, regime)


def _prompt_prints(chosen: Asked) -> dict[str, str]:
    """SHA-256 of each task's rendered question: two runs with one hash asked the same."""
    return {task: hashlib.sha256(text.encode()).hexdigest() for task, text in chosen.questions().items()}


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


def note_limits(folder: Folder | None, settings: EvaluateSettings) -> tuple[int, str]:
    """Note budget and truncation: as set, else as the model was finetuned, else 512 tokens and the head."""
    made = {} if folder is None else folder.manifest.extra
    budget = settings.note_budget or made.get("note_budget") or DEFAULT_NOTE_BUDGET
    return int(budget), settings.truncation or made.get("truncation") or "head"


@contextmanager
def _drafted(
    out: Path, chosen: Asked, settings: EvaluateSettings, inputs: Mapping[str, Folder | InputRef]
) -> Iterator[Draft]:
    bench = chosen.benchmark.folder
    resume = "model" in inputs  # answers that a model or a server gave are kept when a run stops
    with new_folder(out, KIND, inputs={**inputs, "benchmark": bench}, settings=settings, resume=resume) as draft:
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
