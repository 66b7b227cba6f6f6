"""Identities: hashes that let folders prove which patients they hold without naming them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

PATIENT_HASHES = "patient_hashes.npy"


def patient_hash(patient_id: str) -> int:
    """A 63-bit hash of an opaque patient id (BLAKE2b): MEDS ``subject_id`` and the unit of all overlap checks."""
    return int.from_bytes(hashlib.blake2b(patient_id.encode(), digest_size=8).digest(), "big") >> 1


def unit_hash(patient_id: str, salt: str) -> float:
    """A number in [0, 1) that depends on the id and the salt only: split assignments survive a re-extract."""
    digest = hashlib.blake2b(f"{salt}\0{patient_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2.0**64


def write_patient_hashes(folder: Path, patient_ids: Iterable[str]) -> int:
    """Write the sorted distinct hashes (int64) of the patients that a folder holds; returns how many."""
    hashes = np.unique(np.fromiter((patient_hash(p) for p in patient_ids), dtype=np.int64))
    np.save(folder / PATIENT_HASHES, hashes)
    return len(hashes)


def read_patient_hashes(folder: Path) -> npt.NDArray[np.int64]:
    """The sorted patient hashes of a folder, empty where it holds no patient data."""
    file = folder / PATIENT_HASHES
    return np.load(file, allow_pickle=False) if file.exists() else np.empty(0, dtype=np.int64)
