"""Weights in safetensors files of a Hugging Face folder: one file, or shards beside an index."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lang1.common.artefact import read_json
from lang1.common.errors import ArtefactError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONFIG = "config.json"


def write_weights(folder: Path, tensors: Mapping[str, torch.Tensor], dtype: torch.dtype) -> None:
    """Write ``model.safetensors`` whole or not at all."""
    ready = {k: v.detach().to("cpu", dtype).contiguous() for k, v in tensors.items()}
    temporary = folder / f".{WEIGHTS}.tmp"
    save_file(ready, temporary, metadata={"format": "pt"})
    temporary.replace(folder / WEIGHTS)


def weight_files(path: Path) -> list[Path]:
    """The one file of a folder's weights, or the shards that its index names.

    Raises:
        ArtefactError: neither is there, or the index is damaged.
    """
    files = [path / WEIGHTS]
    if not files[0].is_file():
        if not (path / INDEX).is_file():
            raise ArtefactError(f"{path / WEIGHTS} is missing; only safetensors weights are loaded.")
        index = read_json(path / INDEX)
        names = sorted(set(index.get("weight_map", {}).values())) if isinstance(index, dict) else []
        if not names or any(Path(n).name != n for n in names):
            raise ArtefactError(f"{path / INDEX} is damaged: expected a weight_map of file names in this folder.")
        files = [path / n for n in names]
    return files


def stored_dtype(path: Path) -> torch.dtype:
    """The floating-point dtype in which most of a folder's weights are stored."""
    counts: dict[torch.dtype, int] = {}
    names = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
    for file in weight_files(path):
        with safe_open(file, framework="pt") as stream:
            for name in stream.keys():  # noqa: SIM118 - not a dict
                dtype = names.get(stream.get_slice(name).get_dtype())
                if dtype is not None:
                    counts[dtype] = counts.get(dtype, 0) + 1
    return max(counts, key=lambda d: counts[d]) if counts else torch.float32


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of one file, or of the shards that an index names.

    Raises:
        ArtefactError: a file is missing or damaged, or the weights are in another format than safetensors.
    """
    tensors: dict[str, torch.Tensor] = {}
    for file in weight_files(path):
        try:
            with safe_open(file, framework="pt") as stream:
                for name in stream.keys():  # noqa: SIM118 - not a dict
                    tensors[name] = stream.get_tensor(name)
        except FileNotFoundError as error:
            raise ArtefactError(f"{file} is missing, though {INDEX} names it.") from error
        except (SafetensorError, OSError, RuntimeError, ValueError) as error:
            raise ArtefactError(f"{file} is damaged ({error}); copy or train the model again.") from error
    return tensors
