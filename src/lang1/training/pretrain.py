"""Next-token pretraining on a corpus folder, to a model folder."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lang1.common.artefact import Folder, file_sha256
from lang1.common.errors import SettingsError
from lang1.common.identity import PATIENT_HASHES
from lang1.corpus.guard import check_no_overlap
from lang1.corpus.order import BatchOrder
from lang1.corpus.reader import Corpus
from lang1.model.attention import build_layout
from lang1.model.config import ModelSettings, preset
from lang1.model.decoder import Decoder
from lang1.model.llama import Llama
from lang1.model.precision import pick_dtype
from lang1.model.store import load_model, save_model
from lang1.remede.benchmark import Benchmark
from lang1.text.tokenizer import TOKENIZER_FILE
from lang1.training.compile import compile_layers
from lang1.training.distributed import Processes, gather, processes, shared_folder
from lang1.training.inrun import in_run_evaluation
from lang1.training.loop import Loop, Work, device_name
from lang1.training.loss import linear_cross_entropy
from lang1.training.optim import Optimizers
from lang1.training.packing import PackedStream, flatten
from lang1.training.settings import PretrainSettings
from lang1.training.start import check_same_tokenizer, latest_cut, open_start, patients_of
from lang1.training.throughput import Tally
from lang1.training.trackers import make_trackers
from lang1.training.watch import MakeEvaluate, Watcher

__all__ = ["PretrainSettings", "pretrain"]


def pretrain(
    corpus: Path,
    out: Path,
    settings: PretrainSettings,
    benchmark: Path | None = None,
    start: Path | None = None,
    *,
    watchers: Sequence[Watcher] = (),
    evaluate: MakeEvaluate | None = None,
) -> Path:
    """Train a model on a corpus, from scratch or on from another; interrupted and called again, it goes on.

    Args:
        corpus: a corpus folder.
        out: the model folder to write.
        settings: model, length, batch, optimizer.
        benchmark: refuse a corpus that holds this benchmark's held-out patients or later text; with
            ``allow_overlap`` the model is marked instead.
        start: a model folder, or a Hugging Face folder, whose weights, shape and tokenizer the training goes on with;
            None starts from random weights. The corpus must have been made with its tokenizer.
        watchers: see every record of the log, beside the trackers that ``settings.watch`` asks for.
        evaluate: makes the evaluation on the way, done at the steps that ``settings.watch.evaluation`` names; None
            asks what these settings ask for (``inrun.py``).

    Returns:
        ``out``.

    Raises:
        ArtefactError: a folder is missing or damaged, or corpus and benchmark overlap.
        SettingsError: settings that do not fit each other, the start model or the corpus's tokenizer, or an unfinished
            run with other settings at ``out``.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, once a checkpoint is written.
    """
    with processes(settings.device, settings.threads) as team:
        return _pretrain(team, corpus, Path(out), settings, benchmark, start, watchers, evaluate)


def _pretrain(
    team: Processes,
    corpus: Path,
    out: Path,
    settings: PretrainSettings,
    benchmark: Path | None,
    start: Path | None,
    watchers: Sequence[Watcher],
    evaluate: MakeEvaluate | None,
) -> Path:
    if team.first:
        watchers = [*watchers, *make_trackers(settings.watch, out)]
    opened = Corpus.open(corpus)
    inputs: dict[str, Folder] = {"corpus": opened.folder}
    marks: list[str] = []
    if benchmark is not None:
        judged = Benchmark.open(benchmark)
        marks = check_no_overlap(opened.folder, judged, allowed=settings.allow_overlap)
        inputs["benchmark"] = judged.folder
    if start is not None:
        inputs["start"] = open_start(start)
        carried = inputs["start"].manifest.extra.get("overlap", [])
        if benchmark is not None:
            carried = check_no_overlap(inputs["start"], judged, allowed=settings.allow_overlap)
        marks = list(dict.fromkeys([*marks, *carried]))
        if "model" in settings.model_fields_set:
            raise SettingsError(f"model: leave it out; the shape is that of {start}.")
    evaluate = evaluate or in_run_evaluation(
        settings.watch.evaluation, judged if benchmark is not None else None, settings.seed
    )
    dtype = pick_dtype(team.device, settings.precision)
    identity = {
        "settings": settings.model_dump(mode="json"),
        "inputs": {name: folder.fingerprint for name, folder in inputs.items()},
        "tokenizer": file_sha256(opened.folder.path / "tokenizer" / TOKENIZER_FILE),
        "computed": team.computed(dtype),
    }
    with shared_folder(team, out, "model", inputs=inputs, settings=settings, resume=True) as draft:
        model = _model(settings, opened, inputs.get("start"), team, dtype)
        if team.first:
            opened.tokenizer.save(draft.path)  # beside the milestones, so that these can be exported
        per_step = settings.sequence_length * settings.sequences_per_step
        steps = -(-settings.tokens // per_step)
        order = BatchOrder(
            opened,
            settings.weights,
            settings.sequence_length,
            settings.sequences_per_step,
            settings.seed,
            mixture=settings.mixture,
            epochs_cap=settings.epochs_cap,
            steps=steps,
        )
        loop = Loop(
            folder=draft.path,
            model=model,
            optimizers=Optimizers(model, settings.optimizer),
            work=Pretraining(model, opened, order, settings, team),
            steps=steps,
            settings=settings,
            schedule=settings.schedule,
            validate_every=settings.validate_every,
            identity=identity,
            name="pretrain",
            watchers=watchers,
            evaluate=evaluate(model, opened.tokenizer, team.folder(draft.path)) if evaluate is not None else None,
            team=team,
        )
        loop.run()
        loop.checkpoints.drop(keep_last=settings.keep_checkpoints)
        gather(model, team)
        if team.first:
            save_model(draft.path, model, opened.tokenizer)
        text = [f for role, f in inputs.items() if role in ("corpus", "start")]
        patients = patients_of(*(f.path for f in text))
        if team.first and (len(patients) or (opened.folder.path / PATIENT_HASHES).is_file()):
            np.save(draft.path / PATIENT_HASHES, patients)
        draft.counts = {"steps": steps, "tokens": loop.tokens, "skipped_steps": dict(loop.guard.skipped)}
        if loop.rollback.done:
            draft.counts["rollbacks"] = loop.rollback.done
        draft.extra = {
            "stage": "pretrained",
            "name": model.name,
            "parameters": model.parameter_count,
            "tokens_seen": loop.tokens + _seen_before(inputs.get("start")),
            "tasks": [],
            "mixture": order.realised(steps),
            "cut": latest_cut(*text) if start is not None else opened.folder.manifest.extra.get("cut"),
            **({"overlap": marks} if marks else {}),
            "cost": {"tokens": loop.tokens, "seconds": round(loop.seconds, 1), "device": device_name(team.device)},
        }
    return Path(out)


def _model(
    settings: PretrainSettings, corpus: Corpus, start: Folder | None, team: Processes, dtype: torch.dtype
) -> Decoder:
    """A model of random weights, or the one to go on from, shared out among the processes."""
    if start is None:
        shape = _shape(settings, corpus)
        # Several processes never hold it whole: each draws every weight and keeps its rows.
        with torch.device("meta" if team.size > 1 else "cpu"):
            fresh = Llama(shape, dtype)
        model: Decoder = fresh
    else:
        loaded = load_model(start.path, "cpu" if team.size > 1 else team.device, dtype)
        check_same_tokenizer(start.path, loaded.tokenizer, corpus.tokenizer, corpus.folder.path)
        _check_length(settings, loaded.model.context)
        model = loaded.model
    team.share_out(model, settings.shard, settings.replicas)
    if start is None:
        fresh.initialise(settings.seed, team.device)
        team.prepare()
    model = model.to(team.device)
    if settings.compile:
        compile_layers(model)
    return model


def _seen_before(start: Folder | None) -> int:
    return 0 if start is None else int(start.manifest.extra.get("tokens_seen", 0))


def _shape(settings: PretrainSettings, corpus: Corpus) -> ModelSettings:
    shape = preset(settings.model) if isinstance(settings.model, str) else settings.model
    vocab = corpus.tokenizer.vocab_size
    if shape.vocab_size not in (0, vocab):
        raise SettingsError(f"model.vocab_size is {shape.vocab_size}, the corpus's tokenizer has {vocab}: leave it 0.")
    _check_length(settings, shape.context)
    return shape.model_copy(update={"vocab_size": vocab})


def _check_length(settings: PretrainSettings, context: int) -> None:
    if settings.sequence_length > context:
        raise SettingsError(
            f"sequence_length {settings.sequence_length} exceeds the model's context of {context} tokens; "
            "make one shorter or the other longer."
        )


class Pretraining(Work):
    """Next-token loss on packed rows; see :class:`lang1.training.loop.Work`. Of each step's rows and of the validation
    batches every process takes an even stretch."""

    def __init__(
        self,
        model: Decoder,
        corpus: Corpus,
        order: BatchOrder,
        settings: PretrainSettings,
        team: Processes | None = None,
    ) -> None:
        self.model, self.corpus, self.order, self.settings = model, corpus, order, settings
        self.team = team or Processes()
        self.device = model.device
        self.rows = max(1, settings.tokens_per_pass // settings.sequence_length)
        self.tally = Tally()
        self._read: dict[str, Any] = {}

    @property
    def tokens_per_step(self) -> float:
        return float(self.settings.sequence_length * self.settings.sequences_per_step)

    def losses(self, step: int) -> Iterator[tuple[Tensor, int]]:
        each = self.settings.sequences_per_step
        numbers = np.arange(step * each, (step + 1) * each)[self.team.mine(each)]
        tokens, documents = self.order.rows(numbers)
        self._read = {"rows": numbers.tolist(), "crc": zlib.crc32(tokens.tobytes())}
        parts = [slice(i, i + self.rows) for i in range(0, len(tokens), self.rows)]
        streams = [(flatten(tokens[part], documents[part]), tokens[part].size) for part in parts]
        found = [(stream, size) for stream, size in streams if stream is not None]
        # Normalised once over the whole step, all processes and passes: how it is cut makes no difference.
        targets = int(self.team.total([sum(len(stream.read) for stream, _ in found)])[0])

        def loss(part: tuple[PackedStream, int]) -> tuple[Tensor, int]:
            self.tally.add(part[0].tally())
            return self._loss(part[0], 1.0 / targets), part[1]

        yield from self.team.passes(found, loss, lambda: (self._loss(self._nothing(), 0.0), 0))

    def shares(self, steps: int) -> dict[str, float]:
        return {name: source["share"] for name, source in self.order.realised(steps).items()}

    def read(self, step: int) -> Any:
        """The rows' numbers in the whole training, the pieces of documents in them, and a checksum of their tokens."""
        return {**self._read, "pieces": self.order.documents(np.array(self._read["rows"], dtype=np.int64))}

    def about(self, first: int, last: int) -> Any:
        each = self.settings.sequences_per_step
        rows = np.arange(first * each, (last + 1) * each)
        named = self.order.documents(rows[: self.NAMED])
        return {"rows": [int(rows[0]), int(rows[-1])], "pieces": named}

    # Rows whose documents a record names: a stretch of hundreds of steps would fill the log.
    NAMED = 64

    def validate(self, step: int) -> dict[str, float]:
        measures: dict[str, float] = {}
        wanted = self.settings.validation_tokens
        for name, source in self.corpus.sources.items():
            if not wanted or not source.val.tokens:
                continue
            streams, seen = [], 0
            for tokens, documents in self.corpus.val_batches(name, self.settings.sequence_length, self.rows):
                streams.append(flatten(tokens, documents))
                seen += tokens.size
                if seen >= wanted:
                    break
            found = [stream for stream in streams if stream is not None]
            total, count = 0.0, 0
            with torch.inference_mode():
                mine = found[self.team.mine(len(found))]
                for loss in self.team.passes(
                    mine, lambda stream: self._loss(stream, 1.0), lambda: self._loss(self._nothing(), 0.0)
                ):
                    total += float(loss)
            count = sum(len(stream.read) for stream in mine)
            total, all_count = self.team.total([total, count])
            if all_count:
                measures[f"loss/{name}"] = total / all_count
                measures[f"perplexity/{name}"] = math.exp(min(total / all_count, 700.0))
        return measures

    def _nothing(self) -> PackedStream:
        """A pass that counts for nothing: another process has one pass more, and all go through the model together."""
        token = np.array([self.corpus.tokenizer.eot_id], dtype=np.int64)
        return PackedStream(np.repeat(token, 2), np.array([2]), np.array([0]), token)

    def _loss(self, stream: PackedStream, scale: float) -> Tensor:
        layout = build_layout(stream.lengths, device=self.device)
        tokens, read, target = (
            torch.from_numpy(x).to(self.device) for x in (stream.tokens, stream.read, stream.target)
        )
        hidden = self.model(tokens, layout, read)
        scales = torch.full((len(stream.read),), scale, dtype=torch.float32, device=self.device)
        return linear_cross_entropy(hidden, self.model.head_weight, target, scales)
