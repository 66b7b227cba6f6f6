"""Checkpoints of a run as models of their own: a milestone in the Hugging Face layout, with tokenizer and card."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from lang1.common.artefact import partial_path
from lang1.common.errors import ArtefactError
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
    run, out = Path(run), Path(out)
    place = run if (run / FOLDER).is_dir() else partial_path(run)
    folder = place / FOLDER / f"step-{step:08d}"
    if not folder.is_dir():
        there = sorted(int(p.name.rpartition("-")[2]) for p in (place / FOLDER).glob("step-*"))
        listed = f"there are steps {', '.join(map(str, there))}" if there else "it has none; set milestone_every"
        raise ArtefactError(f"{run}: no checkpoint after step {step}; {listed}.")
    if out.exists():
        raise ArtefactError(f"{out} exists already: choose another folder, or remove it first.")
    found = open_checkpoint(folder)
    model = _model(found, folder)
    manifest = _about(found, read_state(folder))
    partial = partial_path(out)
    shutil.rmtree(partial, ignore_errors=True)
    save_model(partial, model, Tokenizer.load(place), dtype)
    (partial / "README.md").write_text(model_card(model, manifest), encoding="utf-8")
    partial.rename(out)
    return out


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
