"""Encoded notes and questions on disk, so that they are made once: for a run, its resumptions, processes and seeds.

A folder a split, named by a hash of all that the tokens depend on: NumPy arrays that are mapped into memory when read
(several processes on a machine share them), beside ``about.json``. It holds patients' text as tokens.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from lang1.common.artefact import read_json, write_json
from lang1.common.errors import ArtefactError
from lang1.text.shared_note import EncodedGroups
from lang1.training.distributed import Processes

ABOUT = "about.json"
ARRAYS = ("note_tokens", "note_ends", "truncated", "item_ends", "item_task", "item_label")


def once(folder: Path, team: Processes, key: dict[str, Any], encode: Callable[[], EncodedGroups]) -> EncodedGroups:
    """What ``encode`` gives, read from ``folder`` where it is there already; the first process makes it for all.

    Args:
        folder: where encoded splits are kept; made where it is missing.
        team: the processes of the run; all must reach the folder.
        key: everything that the result depends on, as JSON values.
        encode: called in the first process alone, and only where nothing is there.

    Raises:
        ArtefactError: the folder cannot be written, or what lies there is damaged.
        Lang1Error: whatever ``encode`` refuses, in every process.
    """
    place = folder / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    with team.together():
        if team.first and not (place / ABOUT).is_file():
            _write(place, encode(), key)
    team.wait()
    with team.together():
        return _read(place)


def _write(place: Path, encoded: EncodedGroups, key: dict[str, Any]) -> None:
    partial = place.with_name(f".{place.name}-{uuid4().hex}")
    try:
        partial.mkdir(parents=True)
        for name in ARRAYS:
            np.save(partial / f"{name}.npy", getattr(encoded, name))
        questions = [[int(token) for token in tokens] for tokens in encoded.question_tokens]
        about = {"key": key, "tasks": list(encoded.tasks), "questions": questions, "example_ids": encoded.example_ids}
        write_json(partial / ABOUT, about)
        shutil.rmtree(place, ignore_errors=True)  # a damaged one
        partial.rename(place)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        if (place / ABOUT).is_file():  # another run was quicker
            return
        raise ArtefactError(f"{place}: cannot be written ({error.strerror}); choose another folder.") from error


def _read(place: Path) -> EncodedGroups:
    about = read_json(place / ABOUT)
    try:
        arrays = {name: np.load(place / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ARRAYS}
        if len(about["example_ids"]) != len(arrays["item_task"]) or arrays["note_ends"][-1] != len(
            arrays["note_tokens"]
        ):
            raise ValueError("lengths differ")
        return EncodedGroups(
            tasks=tuple(about["tasks"]),
            question_tokens=tuple(np.array(tokens, dtype=np.int32) for tokens in about["questions"]),
            example_ids=about["example_ids"],
            **arrays,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtefactError(f"{place} is damaged ({error}): remove it, it is made again.") from error
