"""Checkpoints of a run as models of their own: a milestone in the Hugging Face layout, with tokenizer and card."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from lang1.common.artefact import new_folder, open_folder, partial_path
from lang1.common.errors import ArtefactError
from lang1.common.identity import PATIENT_HASHES
from lang1.model.card import model_card
from lang1.model.config import ModelSettings
from lang1.model.llama import Llama
from lang1.model.store import save_model
from lang1.text.tokenizer import Tokenizer
from lang1.training.checkpoint import FOLDER, Checkpoint, open_checkpoint, read_state


def export_milestone(run: Path | str, step: int, out: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write the model as it was after ``step`` steps to a folder that ``transformers`` loads.

    Args:
        run: the folder of a run, finished or not.
        step: one of which a checkpoint is there (``milestone_every`` keeps them).
        out: a new folder.
        dtype: of the stored weights.

    Raises:
        ArtefactError: no such checkpoint, a damaged one, one that does not hold the whole model, or ``out`` exists.
    """
    out = Path(out)
    if out.exists():
        raise ArtefactError(f"{out} exists already: choose another folder, or remove it first.")
    model, tokenizer, found, folder = _milestone(Path(run), step)
    manifest = _about(found, read_state(folder))
    partial = partial_path(out)
    shutil.rmtree(partial, ignore_errors=True)
    save_model(partial, model, tokenizer, dtype)
    (partial / "README.md").write_text(model_card(model, manifest), encoding="utf-8")
    partial.rename(out)
    return out


def milestone_model(run: Path, step: int, out: Path) -> Path:
    """A milestone of a finished run as a model folder, from which finetuning and evaluation can start.

    It keeps the finished run's patients, cut and marks: a checkpoint has read no more than the whole.

    Raises:
        ArtefactError: ``run`` is not a finished run, or as :func:`export_milestone`.
    """
    whole = open_folder(run, "model")
    with new_folder(out, "model", inputs={"model": whole}, settings={"step": step}) as draft:
        model, tokenizer, found, _ = _milestone(Path(run), step)
        save_model(draft.path, model, tokenizer)
        if (whole.path / PATIENT_HASHES).is_file():
            shutil.copyfile(whole.path / PATIENT_HASHES, draft.path / PATIENT_HASHES)
        tokens, seconds = int(found.extra["tokens"]), round(float(found.extra["seconds"]), 1)
        before = int(whole.manifest.extra["tokens_seen"]) - int(whole.manifest.counts["tokens"])
        draft.counts = {"steps": step, "tokens": tokens}
        draft.extra = {
            **{key: whole.manifest.extra.get(key) for key in ("stage", "name", "parameters", "tasks", "cut")},
            **({"overlap": whole.manifest.extra["overlap"]} if "overlap" in whole.manifest.extra else {}),
            "tokens_seen": before + tokens,
            "cost": {**whole.manifest.extra["cost"], "tokens": tokens, "seconds": seconds},
        }
    return out


def _milestone(run: Path, step: int) -> tuple[Llama, Tokenizer, Checkpoint, Path]:
    """The model as it was after a step, with its tokenizer, and the checkpoint that it lay in."""
    place = run if (run / FOLDER).is_dir() else partial_path(run)
    folder = place / FOLDER / f"step-{step:08d}"
    if not folder.is_dir():
        there = sorted(int(p.name.rpartition("-")[2]) for p in (place / FOLDER).glob("step-*"))
        listed = f"there are steps {', '.join(map(str, there))}" if there else "it has none; set milestone_every"
        raise ArtefactError(f"{run}: no checkpoint after step {step}; {listed}.")
    found = open_checkpoint(folder)
    return _model(found, folder), Tokenizer.load(place), found, folder


def _model(found: Checkpoint, folder: Path) -> Llama:
    shape = found.extra.get("shape")
    if shape is None:
        raise ArtefactError(
            f"{folder}: its architecture is not of the Lang1 family; export the finished model instead."
        )
    with torch.device("meta"):
        model = Llama(ModelSettings.model_validate(shape))
    names = set(found.tensors.names("model"))
    missing = [name for name, _ in model.named_parameters() if name not in names]
    if missing:
        raise ArtefactError(f"{folder}: '{missing[0]}' was not trained and is not in it; export the finished model.")
    model.load_state_dict({name: found.tensors.rows(f"model/{name}") for name in names}, strict=False, assign=True)
    model.tie()
    return model


def _about(found: Checkpoint, state: dict[str, Any]) -> dict[str, Any]:
    """As much of a manifest as a card states."""
    inputs = state["identity"].get("inputs", {})
    return {
        "lang1_version": state.get("code", {}).get("lang1", ""),
        "inputs": {name: {"kind": name, "fingerprint": fingerprint} for name, fingerprint in inputs.items()},
        "extra": {"stage": f"checkpoint after step {found.step}", "tokens_seen": int(found.extra["tokens"])},
    }
