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


def check_no_overlap(corpus: Folder, benchmark: Benchmark) -> None:
    """Refuse a corpus that holds text of the benchmark's held-out patients, or text from after its training cut.

    Works on the hashes and times in the two folders alone, so it holds for a corpus made against another benchmark,
    or against none. A corpus without patients always passes.

    Args:
        corpus: a corpus folder, or any folder with ``patient_hashes.npy`` and ``manifest.extra["cut"]``.
        benchmark: the benchmark on which a model of this corpus will be judged.

    Raises:
        ArtefactError: they overlap, saying by how many patients, or the corpus was cut later or not at all.
    """
    inside = read_patient_hashes(corpus.path)
    if not len(inside):
        return
    held_out = read_patient_hashes(benchmark.folder.path)
    shared = len(np.intersect1d(inside, held_out))
    if shared:
        raise ArtefactError(
            f"{corpus.path} holds notes of {shared} patients whom {benchmark.folder.path} holds out for evaluation: "
            "make the corpus again against this benchmark."
        )
    limit = benchmark.pretraining_cut
    if limit is None:
        return
    stated = corpus.manifest.extra.get("cut")
    if stated is None:
        raise ArtefactError(
            f"{corpus.path} has no training cut, and {benchmark.folder.path} asks for one at {limit:%Y-%m-%d}: "
            "make the corpus again against this benchmark."
        )
    if datetime.fromisoformat(stated) > limit:
        raise ArtefactError(
            f"{corpus.path} was cut at {stated[:10]}, after {limit:%Y-%m-%d}, the training cut of "
            f"{benchmark.folder.path}: make the corpus again against this benchmark."
        )
