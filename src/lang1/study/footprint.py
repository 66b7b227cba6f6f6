"""What a predictions folder and the models behind it took: tokens, seconds, device, floating-point operations.

All of it is read from the manifests that the steps wrote. Floating-point operations are counted from the shape::

    training  = (4 + 2 · trained share) · N_matmul + 12 · L · d · T     a token
    scoring   =  2 · N_matmul + 4 · L · d · T                           a token

with N_matmul the weights but for the input embedding, L layers, d the attention's width, T tokens of the row or note;
the convention of ``training/throughput.py``. Where a folder holds no shape the attention's part is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow.compute as pc

from lang1.common.artefact import MANIFEST, Folder, open_folder, read_json
from lang1.common.errors import ArtefactError
from lang1.evaluation.predictions import Predictions

CONFIG = "config.json"


@dataclass(frozen=True)
class Stage:
    """One training run behind a model.

    Attributes:
        name: of its folder.
        kind: what was done.
        tokens: that it learned from.
        seconds: that it took where it ran; ``device`` says on what.
        parameters: weights of the model; None where that is not known, then ``flops`` is None too.
        flops: floating-point operations of the run.
        start: whether it went on from an earlier model rather than from random weights.
        fingerprint: of its folder, so that a stage behind several models counts once.
    """

    name: str
    kind: Literal["pretraining", "finetuning"]
    tokens: int
    seconds: float
    device: str
    parameters: int | None
    flops: float | None
    start: bool
    fingerprint: str


@dataclass(frozen=True)
class Scoring:
    """What asking one model takes, for an encounter whose questions are all asked.

    Attributes:
        encounters: that were scored.
        notes: that were read, some of one encounter.
        seconds: for one encounter where it ran; ``device`` says on what.
        tokens: through the model for one encounter, questions included; None of what reads no tokens.
        answer_tokens: for one encounter, where a server counted them.
        flops: for one encounter.
        parameters: weights of the model.
        money: for one encounter, as a server's settings priced it.
    """

    encounters: int
    notes: int
    seconds: float
    device: str
    tokens: float | None
    answer_tokens: float | None
    flops: float | None
    parameters: int | None
    money: float | None

    def for_one_note(self) -> Scoring:
        """The same where one note of an encounter is read, as a model of a single task does."""
        share = self.encounters / self.notes if self.notes else 1.0

        def part(value: float | None) -> float | None:
            return None if value is None else value * share

        return Scoring(
            self.encounters,
            self.encounters,
            self.seconds * share,
            self.device,
            part(self.tokens),
            part(self.answer_tokens),
            part(self.flops),
            self.parameters,
            part(self.money),
        )


@dataclass(frozen=True)
class Lineage:
    """The training runs behind a model, the last first; ``lost`` names folders that are gone."""

    stages: tuple[Stage, ...]
    lost: tuple[str, ...] = ()


def lineage(predictions: Predictions) -> Lineage:
    """The training runs behind the model that gave these answers; none for models from elsewhere and baselines."""
    stages: list[Stage] = []
    here = predictions.folder
    role = "model"
    while role in here.manifest.inputs:
        ref = here.manifest.inputs[role]
        if ref.kind != "model":
            break
        found = _beside(here, Path(ref.path))
        if found is None:
            return Lineage(tuple(stages), (Path(ref.path).name,))
        here = found
        role = "start" if "start" in here.manifest.inputs else "model"
        stage = _stage(here)
        if stage is not None:
            stages.append(stage)
    return Lineage(tuple(stages))


def _beside(folder: Folder, path: Path) -> Folder | None:
    """A folder where the manifest says, or beside the one that names it: studies are moved as a whole."""
    for place in (path, folder.path.parent / path.name):
        if (place / MANIFEST).is_file():
            try:
                return open_folder(place, "model")
            except ArtefactError:
                continue
    return None


def _stage(folder: Folder) -> Stage | None:
    extra, settings = folder.manifest.extra, folder.manifest.settings
    cost = extra.get("cost") or {}
    if extra.get("stage") not in ("pretrained", "finetuned") or not cost.get("tokens"):
        return None
    finetuned = extra["stage"] == "finetuned"
    parameters = _count(extra.get("parameters"))
    trained = (_count(extra.get("trainable_parameters")) or parameters or 1) / parameters if parameters else 1.0
    length = extra.get("note_budget") if finetuned else settings.get("sequence_length")
    a_token = training_flops(parameters, shape_of(folder.path), float(length or 0), min(trained, 1.0))
    return Stage(
        folder.path.name,
        "finetuning" if finetuned else "pretraining",
        int(cost["tokens"]),
        float(cost.get("seconds") or 0.0),
        str(cost.get("device") or "unknown"),
        parameters,
        None if a_token is None else a_token * int(cost["tokens"]),
        finetuned or "start" in folder.manifest.inputs,
        folder.fingerprint,
    )


def scoring(predictions: Predictions, notes: int | None = None, parameters: int | None = None) -> Scoring:
    """What asking took, for one encounter.

    Args:
        predictions: the answers.
        notes: how many were read; None: one an encounter.
        parameters: weights of the model, where its manifest does not say.
    """
    manifest = predictions.folder.manifest
    cost: Mapping[str, Any] = manifest.extra.get("cost") or {}
    encounters = max(int(pc.count_distinct(predictions.table["encounter_id"]).as_py()), 1)
    served = cost.get("device") == "server"
    tokens = cost.get("prompt_tokens") if served else cost.get("tokens")
    parameters = _count(manifest.extra.get("parameters")) or parameters
    ref = manifest.inputs.get("model")
    folder = None if ref is None else Path(ref.path)
    if folder is not None and not folder.is_dir():
        folder = predictions.folder.path.parent / folder.name
    shape = None if folder is None else shape_of(folder)
    a_token = scoring_flops(parameters, shape, float(manifest.extra.get("note_budget") or 0))
    once = asked_once(predictions)
    tokens = None if tokens is None else tokens * once
    return Scoring(
        encounters,
        notes or encounters,
        float(cost.get("seconds") or 0.0) * once / encounters,
        str(cost.get("device") or "unknown"),
        None if tokens is None else tokens / encounters,
        cost["answer_tokens"] * once / encounters if served and cost.get("answer_tokens") is not None else None,
        None if a_token is None or tokens is None else a_token * tokens / encounters,
        parameters,
        float(cost.get("money") or 0.0) * once / encounters if served else None,
    )


def asked_once(predictions: Predictions) -> float:
    """The share of an evaluation's questions that were asked as given; some are asked again with options reversed."""
    settings = predictions.folder.manifest.settings
    rows = predictions.table
    if predictions.regime in ("baseline", "oracle") or not rows.num_rows:
        return 1.0
    if settings.get("order") == "averaged":
        return 0.5
    # Splits are not in the file: with the same number in each, as many are asked again as this says.
    splits = max(len(predictions.folder.manifest.extra.get("splits") or []), 1)
    again = int(settings.get("swap_examples") or 0)
    counts = pc.value_counts(rows["task"]).field("counts").to_pylist()
    return float(rows.num_rows / (rows.num_rows + sum(min(again * splits, count) for count in counts)))


@dataclass(frozen=True)
class Shape:
    """What of a model's shape decides its arithmetic: weights of the input embedding, and layers times width."""

    embedding: int
    layers_width: int


def shape_of(folder: Path) -> Shape | None:
    """From a folder's ``config.json`` in the Hugging Face layout; None where that is not there or says too little."""
    try:
        values = read_json(folder / CONFIG)
        heads, width = int(values["num_attention_heads"]), int(values["hidden_size"])
        inner = heads * int(values.get("head_dim") or width // heads)
        # One matrix that serves as input and output is in the products once: nothing is to be taken off.
        embedding = 0 if values.get("tie_word_embeddings") else int(values["vocab_size"]) * width
        return Shape(embedding, int(values["num_hidden_layers"]) * inner)
    except (ArtefactError, KeyError, TypeError, ValueError, ZeroDivisionError):
        return None


def training_flops(parameters: int | None, shape: Shape | None, length: float, trained: float = 1.0) -> float | None:
    """Of one training token; see the module's head."""
    if parameters is None:
        return None
    if shape is None:
        return (4 + 2 * trained) * parameters
    return (4 + 2 * trained) * (parameters - shape.embedding) + 12 * shape.layers_width * length


def scoring_flops(parameters: int | None, shape: Shape | None, length: float) -> float | None:
    """Of one scored token; see the module's head."""
    if parameters is None:
        return None
    if shape is None:
        return 2.0 * parameters
    return 2.0 * (parameters - shape.embedding) + 4.0 * shape.layers_width * length


def _count(value: Any) -> int | None:
    return int(value) if isinstance(value, int | float) and value > 0 else None
