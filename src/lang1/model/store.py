"""Model folders: Hugging Face files beside a tokenizer, and their export."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lang1.common.artefact import MANIFEST, read_json
from lang1.common.errors import ArtefactError
from lang1.model.config import ModelSettings
from lang1.model.decoder import Decoder
from lang1.model.llama import HEAD, Llama
from lang1.model.precision import pick_device
from lang1.model.weights import CONFIG, read_weights
from lang1.text.tokenizer import TOKENIZER_FILE, Tokenizer


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to run, with the tokenizer that it was trained with."""

    model: Decoder
    tokenizer: Tokenizer


def save_model(folder: Path, model: Decoder, tokenizer: Tokenizer, dtype: torch.dtype = torch.float32) -> None:
    """Write configuration, weights and the tokenizer into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save(folder, tokenizer.eot_id, dtype)
    tokenizer.save(folder)


def load_model(
    path: Path | str,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> LoadedModel:
    """Load a model in the Hugging Face layout, ours or another's (safetensors only); see docs/models.md for which.

    Args:
        path: the folder.
        device: where it goes; None picks CUDA where present.
        dtype: of activations and products; None computes in fp32. Weights stay in fp32.

    Raises:
        ArtefactError: a file is missing, damaged or does not fit the configuration or the tokenizer, or the
            architecture cannot be run.
    """
    path = Path(path)
    if not path.is_dir():
        raise ArtefactError(f"{path} does not exist; expected a model folder.")
    config = read_json(path / CONFIG)
    if not isinstance(config, dict):
        raise ArtefactError(f"{path / CONFIG} is damaged: expected an object; export or train the model again.")
    tokenizer = Tokenizer.load(path)
    target = torch.device(device) if device is not None else pick_device()
    why = ModelSettings.why_not(config)
    model: Decoder
    if why is None:
        model = _load_llama(path, config, target, dtype or torch.float32, tokenizer)
    else:
        from lang1.model.foreign import load_foreign

        model = load_foreign(path, target, dtype or torch.float32, f"{CONFIG}: {why}")
        _check_vocabulary(path, tokenizer, model.vocab_size)
    return LoadedModel(model, tokenizer)


def _load_llama(
    path: Path, config: dict[str, Any], target: torch.device, dtype: torch.dtype, tokenizer: Tokenizer
) -> Llama:
    settings = ModelSettings.from_hf(config, str(path / CONFIG))
    _check_vocabulary(path, tokenizer, settings.vocab_size)
    with torch.device("meta"):
        model = Llama(settings, dtype)
    weights = read_weights(path)
    if settings.tied:
        weights.pop(HEAD, None)
    expected = {k: tuple(v.shape) for k, v in model.state_dict().items() if not (settings.tied and k == HEAD)}
    for name, shape in expected.items():
        found = tuple(weights[name].shape) if name in weights else None
        if found != shape:
            what = "is missing" if found is None else f"has shape {list(found)}"
            raise ArtefactError(f"{path}: weight {name} {what}; {CONFIG} asks for shape {list(shape)}.")
    # Tables of rotary frequencies, which early Llama checkpoints carry, follow from the configuration.
    extra = [k for k in weights if k not in expected and not k.endswith("rotary_emb.inv_freq")]
    if extra:
        raise ArtefactError(
            f"{path}: weight {sorted(extra)[0]} ({len(extra)} such) has no place in the model that {CONFIG} describes."
        )
    moved = {k: weights.pop(k).to(target, torch.float32) for k in expected}
    model.load_state_dict(moved, strict=False, assign=True)
    model.tie()
    return model


def _check_vocabulary(path: Path, tokenizer: Tokenizer, rows: int) -> None:
    if tokenizer.vocab_size > rows:
        raise ArtefactError(
            f"{path}: the tokenizer knows {tokenizer.vocab_size} tokens, the model only {rows}; "
            f"put the {TOKENIZER_FILE} of this model there."
        )


def export_model(model_folder: Path | str, out: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write a plain folder that ``transformers`` loads (``AutoModelForCausalLM``, ``AutoTokenizer``).

    Args:
        model_folder: a model folder of this package.
        out: a new folder.
        dtype: of the stored weights; fp32 keeps them exactly.

    Raises:
        ArtefactError: ``out`` exists, or the model cannot be loaded.
    """
    from lang1.model.card import model_card

    model_folder, out = Path(model_folder), Path(out)
    if out.exists():
        raise ArtefactError(f"{out} exists already: choose another folder, or remove it first.")
    loaded = load_model(model_folder, device="cpu")
    manifest = read_json(model_folder / MANIFEST) if (model_folder / MANIFEST).is_file() else {}
    partial = out.parent / f".{out.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    save_model(partial, loaded.model, loaded.tokenizer, dtype)
    (partial / "README.md").write_text(model_card(loaded.model, manifest), encoding="utf-8")
    partial.rename(out)
    return out
