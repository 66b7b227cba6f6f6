"""The guard between what a model was trained on and what it is judged on."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np

from lang1.common.artefact import Folder
from lang1.common.errors import ArtefactError
from lang1.common.identity import read_patient_hashes

if TYPE_CHECKING:
    from lang1.remede.benchmark import Benchmark


def check_no_overlap(corpus: Folder, benchmark: Benchmark, *, allowed: bool = False) -> list[str]:
    """Refuse a corpus that holds text of the benchmark's held-out patients, or text from after its training cut.

    Works on the hashes and times in the two folders alone, so it holds for a corpus made against another benchmark,
    or against none. A corpus without patients always passes.

    Args:
        corpus: a corpus folder, or any folder with ``patient_hashes.npy`` and ``manifest.extra["cut"]``.
        benchmark: the benchmark on which a model of this corpus will be judged.
        allowed: the user said that the overlap is meant: it is marked instead of refused.

    Returns:
        The marks that a model made from this folder carries, and every report on it: this overlap, and those that the
        folder carries already (``manifest.extra["overlap"]``).

    Raises:
        ArtefactError: they overlap, saying by how many patients, or the corpus was cut later or not at all.
    """
    marks = list(corpus.manifest.extra.get("overlap", []))
    found = overlap(corpus, benchmark)
    if found is None:
        return marks
    if not allowed:
        raise ArtefactError(
            f"{found}: make the corpus again against this benchmark (or set allow_overlap=true, and every report on "
            "the model says so)."
        )
    return list(dict.fromkeys([*marks, f"{found}."]))


def overlap(corpus: Folder, benchmark: Benchmark) -> str | None:
    """How a corpus, or what was made from it, overlaps with what a benchmark holds out; None where it does not."""
    inside = read_patient_hashes(corpus.path)
    if not len(inside):
        return None
    held_out = read_patient_hashes(benchmark.folder.path)
    shared = len(np.intersect1d(inside, held_out))
    if shared:
        return f"{corpus.path} holds notes of {shared} patients whom {benchmark.folder.path} holds out for evaluation"
    limit = benchmark.pretraining_cut
    if limit is None:
        return None
    stated = corpus.manifest.extra.get("cut")
    if stated is None:
        return f"{corpus.path} has no training cut, and {benchmark.folder.path} asks for one at {limit:%Y-%m-%d}"
    if datetime.fromisoformat(stated) > limit:
        return (
            f"{corpus.path} was cut at {stated[:10]}, after {limit:%Y-%m-%d}, the training cut of "
            f"{benchmark.folder.path}"
        )
    return None
