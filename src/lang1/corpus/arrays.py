"""Several NumPy arrays in one file that can be mapped into memory: one after the other, each as ``.npy``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lang1.common.errors import ArtefactError

Array = npt.NDArray[Any]


def write_arrays(path: Path, arrays: Sequence[Array]) -> None:
    """Write arrays into one file; the bytes depend on the arrays only."""
    with path.open("wb") as stream:
        for array in arrays:
            np.lib.format.write_array(stream, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)


def map_arrays(path: Path) -> list[Array]:
    """The arrays of a file, mapped read-only: only the pages that are looked at are read.

    Raises:
        ArtefactError: the file is missing, cut short, or not one of these.
    """
    found: list[Array] = []
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            while stream.tell() < size:
                np.lib.format.read_magic(stream)
                shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
                at, count = stream.tell(), int(np.prod(shape))
                stream.seek(at + count * dtype.itemsize)
                if stream.tell() > size:
                    raise ValueError("it is cut short")
                # An empty array has no bytes to map.
                mapped = np.memmap(path, dtype, "r", at, shape) if count else np.empty(shape, dtype)
                found.append(mapped)
    except (OSError, ValueError) as error:
        raise ArtefactError(
            f"{path}: not a whole file of arrays ({error}); delete it and run the step again."
        ) from error
    return found
