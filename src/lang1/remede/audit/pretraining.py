"""Pretraining overlap: what a corpus or a model was trained on, against held-out patients and the pretraining cut."""

from __future__ import annotations

from datetime import datetime

import numpy as np

from lang1.common.artefact import Folder
from lang1.common.identity import read_patient_hashes
from lang1.remede.audit.finding import Finding, graded
from lang1.remede.audit.material import Material
from lang1.reporting.numbers import plural

GUARD = "pretraining"


def check(material: Material) -> list[Finding]:
    """One finding a corpus or model that was named."""
    named = [*material.corpora, *material.models]
    if not named:
        said = "No corpus or model was named, so nothing that was pretrained on could be compared (--corpus, --model)."
        return [Finding(GUARD, (7,), None, "not_applicable", said)]
    return [_one(material, folder) for folder in named]


def _one(material: Material, folder: Folder) -> Finding:
    inside = read_patient_hashes(folder.path)
    held = read_patient_hashes(material.folder.path)
    name, kind = folder.path.name, folder.kind
    figures = {"patients_inside": len(inside), "patients_held_out": len(held), "cut": folder.manifest.extra.get("cut")}
    if not len(inside):
        said = f"The {kind} '{name}' says of no patient that it holds their text."
        return Finding(GUARD, (7,), None, graded(kind == "model", "warn", "pass"), said, 0, (), figures)
    shared = np.intersect1d(inside, held)
    if len(shared):
        said = f"The {kind} '{name}' holds text of {plural(len(shared), 'patient')} who are held out."
        ids = tuple(str(number) for number in shared[:10])
        return Finding(GUARD, (7,), None, "fail", said, len(shared), ids, figures)
    limit, cut = material.extra.get("pretraining_cut"), folder.manifest.extra.get("cut")
    figures["benchmark_cut"] = limit
    if (
        limit is not None
        and kind == "corpus"
        and (cut is None or datetime.fromisoformat(cut) > datetime.fromisoformat(limit))
    ):
        until = f"until {cut[:10]}" if cut else "without a cut in time"
        said = f"The corpus '{name}' holds text {until}, and the benchmark's test period begins on {limit[:10]}."
        return Finding(GUARD, (7,), None, "fail", said, 0, (), figures)
    said = f"The {kind} '{name}' holds text of {plural(len(inside), 'patient')}, none of them held out."
    return Finding(GUARD, (7,), None, "pass", said, 0, (), figures)
