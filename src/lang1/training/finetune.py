"""Finetuning a model on the questions of a benchmark, one task or several jointly."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors.torch import load_file, save_file

import lang1
from lang1.common.artefact import Draft, Folder, new_folder
from lang1.common.errors import InputError, SettingsError
from lang1.common.identity import PATIENT_HASHES, read_patient_hashes
from lang1.corpus.guard import check_no_overlap
from lang1.model.decoder import Decoder
from lang1.model.precision import pick_dtype
from lang1.model.store import LoadedModel, load_model, save_model
from lang1.remede.benchmark import Benchmark
from lang1.text.shared_note import EncodedGroups, encode_groups
from lang1.text.tokenizer import Tokenizer
from lang1.training.answers import Answers, some_notes
from lang1.training.checkpoint import restore, snapshot, trained
from lang1.training.compile import compile_layers
from lang1.training.distributed import Processes, gather, processes, shared_folder, whole
from lang1.training.encoded import once
from lang1.training.inrun import in_run_evaluation
from lang1.training.loop import Loop, device_name
from lang1.training.lora import add_adapters, merged, save_adapters, trainable
from lang1.training.optim import Optimizers
from lang1.training.search import search_lr
from lang1.training.settings import FinetuneSettings
from lang1.training.start import open_start
from lang1.training.trackers import make_trackers
from lang1.training.watch import MakeEvaluate, Watcher

__all__ = ["FinetuneSettings", "finetune"]

ENCODED = "encoded"  # inside the partial folder: encoded notes, for runs that are stopped and for other processes


def finetune(
    model: Path,
    benchmark: Path,
    out: Path,
    settings: FinetuneSettings,
    *,
    watchers: Sequence[Watcher] = (),
    evaluate: MakeEvaluate | None = None,
) -> Path:
    """Finetune all weights, or adapters beside them; interrupted and called again, it goes on where it was.

    Args:
        model: the model to start from: a folder of this package, or any Hugging Face folder.
        benchmark: whose training split to learn and whose validation split to judge by.
        out: the model folder to write; it holds the weights of the best validation, adapters merged. Adapters alone
            are in ``adapter/``, each task's own best under ``best/TASK`` where ``settings.task_best`` asks for it.
        settings: tasks, length, loss, optimizer, search.
        watchers: see every record of the log, beside the trackers that ``settings.watch`` asks for.
        evaluate: makes the evaluation on the way, done at the steps that ``settings.watch.evaluation`` names; None
            asks what these settings ask for (``inrun.py``).

    Returns:
        ``out``.

    Raises:
        ArtefactError: a folder is missing or damaged, or the model has seen held-out patients.
        InputError: no training examples.
        SettingsError: an unknown task, a note budget beyond the model's context, several seeds (see
            ``lang1.study.seeds``), or an unfinished run with other settings at ``out``.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, once a checkpoint is written.
    """
    if settings.seeds is not None:
        raise SettingsError("seeds: one run trains one seed; several are made by `lang1 finetune` or a study.")
    with processes(settings.device, settings.threads) as team:
        return _finetune(team, Path(model), benchmark, Path(out), settings, watchers, evaluate)


def _finetune(
    team: Processes,
    model: Path,
    benchmark: Path,
    out: Path,
    settings: FinetuneSettings,
    watchers: Sequence[Watcher],
    evaluate: MakeEvaluate | None,
) -> Path:
    if team.first:
        watchers = [*watchers, *make_trackers(settings.watch, out)]
    start = open_start(model)
    judged = Benchmark.open(benchmark)
    marks = check_no_overlap(start, judged, allowed=settings.allow_overlap)
    tasks = _tasks(settings, judged)
    evaluate = evaluate or in_run_evaluation(settings.watch.evaluation, judged, settings.seed)
    dtype = pick_dtype(team.device, settings.precision)
    loaded = load_model(model, "cpu" if team.size > 1 else team.device, dtype)
    parameters = loaded.model.parameter_count
    inputs: dict[str, Folder] = {"model": start, "benchmark": judged.folder}
    identity = {
        "settings": settings.model_dump(mode="json"),
        "inputs": {name: folder.fingerprint for name, folder in inputs.items()},
        "tokenizer": hashlib.sha256(loaded.tokenizer.inner.to_str().encode()).hexdigest(),
        "computed": team.computed(dtype),
    }
    with shared_folder(team, out, "model", inputs=inputs, settings=settings, resume=True) as draft:
        n_options = {task: len(judged.cards[task].options) for task in tasks}
        held = settings.encoded or draft.path / ENCODED
        train = _encoded(judged, "train", tasks, loaded.tokenizer, settings, settings.max_notes, held, team)
        val = _encoded(judged, "val", tasks, loaded.tokenizer, settings, settings.validation_notes, held, team)
        if not train.items:
            raise InputError(f"{benchmark}: no training examples for {', '.join(tasks)}.")
        _check_context(train, loaded.model.context, settings)
        if settings.lora is not None:
            # What is shared out among processes must be of one format.
            frozen = {"frozen": "fp32"} if team.size > 1 else {}
            add_adapters(loaded.model, settings.lora.model_copy(update=frozen), settings.seed)
        trained_weights = trainable(loaded.model)
        if team.first:
            loaded.tokenizer.save(draft.path)  # beside the milestones, so that these can be exported
        team.share_out(loaded.model, settings.shard, settings.replicas)
        loaded.model.to(team.device)
        if settings.compile:
            compile_layers(loaded.model)
        best = BestOfTasks(draft.path, loaded.model, team) if settings.task_best else None
        keep = None if best is None else best.keep
        work = Answers(loaded.model, loaded.tokenizer, train, val, n_options, settings, keep, team)
        optimizer = settings.optimizer
        if settings.lr_search.trials:
            optimizer = search_lr(draft.path, work, snapshot(loaded.model), settings)
        loop = Loop(
            folder=draft.path,
            model=loaded.model,
            optimizers=Optimizers(loaded.model, optimizer),
            work=work,
            steps=work.steps,
            settings=settings,
            schedule=settings.schedule,
            validate_every=settings.validate_every,
            identity=identity,
            name="finetune",
            patience=settings.patience,
            watchers=watchers,
            evaluate=evaluate(loaded.model, loaded.tokenizer, team.folder(draft.path))
            if evaluate is not None
            else None,
            team=team,
        )
        loop.run()
        loop.checkpoints.drop(keep_last=settings.keep_checkpoints)
        gather(loaded.model, team)
        if team.first:
            shutil.rmtree(draft.path / ENCODED, ignore_errors=True)
        learnt_from = judged.examples(tasks, ["train"])["subject_id"].to_numpy()
        hashes = np.union1d(read_patient_hashes(start.path), learnt_from)
        if team.first:
            _save(draft.path, loaded, settings, start)
            np.save(draft.path / PATIENT_HASHES, hashes.astype(np.int64))
        draft.counts = {
            "steps": loop.done,
            "best_step": loop.best_step,
            "tokens": loop.tokens,
            "notes": len(train),
            "examples": _per_task(train),
            "validation_examples": _per_task(val),
            "notes_truncated": int((train.truncated > 0).sum()),
            "skipped_steps": dict(loop.guard.skipped),
            **({"rollbacks": loop.rollback.done} if loop.rollback.done else {}),
        }
        before = start.manifest.extra
        draft.extra = {
            "stage": "finetuned",
            "name": loaded.model.name,
            "parameters": parameters,
            "trainable_parameters": trained_weights,
            "tokens_seen": int(before.get("tokens_seen", 0)) + loop.tokens,
            "tasks": tasks,
            # What `lang1 predict` needs to ask the same questions of new notes.
            "questions": {task: judged.questions()[task] for task in tasks},
            "options": {task: list(judged.cards[task].options) for task in tasks},
            "validation_score": loop.best_score,
            "validation_by_task": work.progress.summary(),
            "lr": optimizer.lr,
            "lora": settings.lora.model_dump(mode="json") if settings.lora is not None else None,
            "note_budget": settings.note_budget,
            "truncation": settings.truncation,
            "cut": before.get("cut"),
            **({"overlap": marks} if marks else {}),
            "cost": {"tokens": loop.tokens, "seconds": round(loop.seconds, 1), "device": device_name(team.device)},
        }
        if best is not None and team.first:
            best.export(loaded, settings, start, draft)
    return Path(out)


def _save(folder: Path, loaded: LoadedModel, settings: FinetuneSettings, start: Folder) -> None:
    """Write the model whole, and its adapters beside it where it was trained by them."""
    if settings.lora is None:
        save_model(folder, loaded.model, loaded.tokenizer)
        return
    save_adapters(loaded.model, settings.lora, start.path, folder / "adapter")
    save_model(folder, merged(loaded.model, start.path), loaded.tokenizer)


class BestOfTasks:
    """The weights of each task's own best validation: in safetensors files while training, then as model folders.

    A run that goes on from an earlier checkpoint meets the same validations again, and writes the same files.
    """

    def __init__(self, partial: Path, model: Decoder, team: Processes) -> None:
        self.folder, self.model, self.team = partial / "task-best", model, team

    def keep(self, tasks: list[str]) -> None:
        """Write the weights as they stand for ``tasks``."""
        self.team.settle()
        tensors = {name: whole(weight.detach()).to("cpu").contiguous() for name, weight in trained(self.model).items()}
        if not self.team.first:
            return
        self.folder.mkdir(exist_ok=True)
        for task in tasks:
            temporary = self.folder / f".{task}.tmp"
            save_file(tensors, temporary)
            temporary.replace(self.folder / f"{task}.safetensors")

    def export(self, loaded: LoadedModel, settings: FinetuneSettings, start: Folder, draft: Draft) -> None:
        """Turn the files into model folders ``best/TASK``, whose manifests say that they answer one task."""
        extra = draft.extra
        for file in sorted(self.folder.glob("*.safetensors")):
            task = file.stem
            restore(loaded.model, load_file(file))
            standing = extra["validation_by_task"][task]
            alone = {
                **extra,
                "tasks": [task],
                "questions": {task: extra["questions"][task]},
                "options": {task: extra["options"][task]},
                "validation_score": standing["best"],
                "validation_by_task": {task: standing},
            }
            with new_folder(
                draft.path / "best" / task, "model", inputs={"start": start}, settings=settings, overwrite=True
            ) as part:
                _save(part.path, loaded, settings, start)
                shutil.copyfile(draft.path / PATIENT_HASHES, part.path / PATIENT_HASHES)
                part.counts, part.extra = dict(draft.counts), alone
        shutil.rmtree(self.folder, ignore_errors=True)


def _tasks(settings: FinetuneSettings, benchmark: Benchmark) -> list[str]:
    known = list(benchmark.cards)
    for task in settings.tasks or ():
        if task not in known:
            raise SettingsError(f"tasks: '{task}' is not in {benchmark.folder.path}; it has {', '.join(known)}.")
    if settings.tasks is not None and not settings.tasks:
        raise SettingsError("tasks: an empty list; name tasks, or null for all.")
    return list(dict.fromkeys(settings.tasks)) if settings.tasks else known


def _encoded(
    benchmark: Benchmark,
    split: str,
    tasks: list[str],
    tokenizer: Tokenizer,
    settings: FinetuneSettings,
    most: int | None,
    folder: Path,
    team: Processes,
) -> EncodedGroups:
    questions = {task: benchmark.questions()[task] for task in tasks}

    def encode() -> EncodedGroups:
        groups = some_notes(benchmark.note_groups(split, tasks), most, settings.seed)
        return encode_groups(groups, tokenizer, questions, settings.note_budget, settings.truncation)

    key = {
        "lang1": lang1.__version__,
        "benchmark": benchmark.folder.fingerprint,
        "records": benchmark.folder.manifest.extra.get("records"),
        "tokenizer": tokenizer.fingerprint,
        "questions": questions,
        "split": split,
        "cut": [settings.note_budget, settings.truncation],
        "subset": None if most is None else [most, settings.seed],
    }
    return once(folder, team, key, encode)


def _check_context(train: EncodedGroups, context: int, settings: FinetuneSettings) -> None:
    longest = max(len(q) for q in train.question_tokens)
    if settings.note_budget + longest > context:
        raise SettingsError(
            f"note_budget {settings.note_budget}: with a question of {longest} tokens it exceeds the model's context "
            f"of {context}; set at most {max(1, context - longest)}."
        )


def _per_task(encoded: EncodedGroups) -> Mapping[str, int]:
    counts = np.bincount(encoded.item_task, minlength=len(encoded.tasks))
    return {task: int(n) for task, n in zip(encoded.tasks, counts, strict=True)}
