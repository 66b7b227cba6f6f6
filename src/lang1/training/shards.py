"""Tensors of a run in safetensors files, one a process, in a form that any number of processes reads.

Each process writes the rows that it holds; an index says in which file which rows of a tensor lie. So a checkpoint of
two processes is read by one or by four, each taking its own rows. Nothing is pickled: the files are safetensors, the
index is JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.distributed.tensor import DTensor

from lang1.common.errors import ArtefactError
from lang1.training.distributed import rows_of

# dtypes as safetensors spells them; what a run holds besides weights and moments are counters.
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
}
# {name: {"shape": [...], "rows": [first, count]}}: what one process's file holds.
Held = dict[str, dict[str, Any]]
# {name: {"shape": [...], "parts": [[file, first row, rows], ...]}}: where the whole tensors lie.
Index = dict[str, dict[str, Any]]


def copies(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Held]:
    """CPU copies of the rows that this process is to store, and what they are; later changes do not reach them."""
    kept: dict[str, Tensor] = {}
    held: Held = {}
    for name, tensor in tensors.items():
        local, first, stored = rows_of(tensor.detach())
        if stored and (local.numel() or not tensor.numel()):
            copy = local.to("cpu", copy=True).contiguous()
            kept[name] = copy
            held[name] = {"shape": list(tensor.shape), "rows": [first, copy.shape[0] if copy.dim() else 1]}
    return kept, held


def write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write a safetensors file and return its SHA-256, in one pass over the data.

    By hand, since it runs beside training: the plain writes let other threads go on, and hashing needs no second
    reading. The file is on the disk when this returns.
    """
    header: dict[str, Any] = {}
    place = 0
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [place, place + size],
        }
        place += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with file.open("wb") as stream:
        for piece in (len(text).to_bytes(8, "little"), text):
            digest.update(piece)
            stream.write(piece)
        for tensor in tensors.values():
            if tensor.numel():
                view = memoryview(tensor.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
                digest.update(view)
                stream.write(view)
        stream.flush()
        os.fsync(stream.fileno())
    return digest.hexdigest()


def join(held: Mapping[str, Held]) -> Index:
    """One index over the files of all processes.

    Raises:
        ArtefactError: the files do not hold every row of a tensor exactly once.
    """
    index: Index = {}
    for file, tensors in held.items():
        for name, about in tensors.items():
            entry = index.setdefault(name, {"shape": about["shape"], "parts": []})
            entry["parts"].append([file, *about["rows"]])
    for name, entry in index.items():
        entry["parts"].sort(key=lambda part: part[1])
        at = 0
        for _, first, rows in entry["parts"]:
            if first != at:
                raise ArtefactError(f"checkpoint: row {at} of '{name}' was written by no process, or by two.")
            at += rows
        if at != (entry["shape"][0] if entry["shape"] else 1):
            raise ArtefactError(f"checkpoint: '{name}' has {entry['shape'][0]} rows, {at} were written.")
    return index


class Reader:
    """The tensors of a checkpoint folder, read a part at a time.

    Raises:
        ArtefactError: in every method, where a file is missing or damaged.
    """

    def __init__(self, folder: Path, index: Index) -> None:
        self.folder, self.index = folder, index
        self._open: dict[str, Any] = {}

    def names(self, kind: str) -> list[str]:
        """Names of the tensors of a kind (``model``, ``optimizer``, ``best``), without the kind."""
        return [name.partition("/")[2] for name in self.index if name.startswith(f"{kind}/")]

    def rows(self, name: str, first: int = 0, count: int | None = None) -> Tensor:
        """Rows of a tensor, or all of it."""
        entry = self.index[name]
        if not entry["shape"]:
            return self._file(entry["parts"][0][0]).get_tensor(name)  # type: ignore[no-any-return]
        stop = entry["shape"][0] if count is None else first + count
        found = []
        for file, start, rows in entry["parts"]:
            low, high = max(first, start), min(stop, start + rows)
            if low < high or not rows:
                found.append(self._file(file).get_slice(name)[max(0, low - start) : max(0, high - start)])
        if found:
            return found[0] if len(found) == 1 else torch.cat(found)
        some = entry["parts"][0][0]
        return self._file(some).get_slice(name)[0:0]  # type: ignore[no-any-return]

    def like(self, name: str, pattern: Tensor) -> Tensor:
        """The tensor as ``pattern`` is laid out: this process's rows where that is shared out."""
        shape = self.index[name]["shape"]
        if shape != list(pattern.shape):
            raise ArtefactError(
                f"{self.folder}: '{name}' has shape {shape}, this model's is {list(pattern.shape)}; start a new run."
            )
        if not isinstance(pattern, DTensor):
            return self.rows(name).to(pattern.device)
        local, first, _ = rows_of(pattern)
        mine = self.rows(name, first, local.shape[0]).to(local.device)
        return DTensor.from_local(
            mine,
            pattern.device_mesh,
            pattern.placements,
            run_check=False,
            shape=pattern.shape,
            stride=pattern.stride(),
        )

    def _file(self, name: str) -> Any:
        if name not in self._open:
            try:
                self._open[name] = safe_open(self.folder / name, framework="pt")
            except (OSError, SafetensorError) as error:
                raise ArtefactError(f"{self.folder / name} is missing or damaged ({error}).") from error
        return self._open[name]
