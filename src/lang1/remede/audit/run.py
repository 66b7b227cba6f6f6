"""The audit: all guards in order, written as ``audit.json`` and ``audit.html``."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import lang1
from lang1.common.artefact import new_folder
from lang1.common.errors import Lang1Error
from lang1.common.progress import Meter
from lang1.remede.audit import (
    answers,
    claims,
    duplicates,
    masks,
    observation,
    phrases,
    pretraining,
    rebuild,
    shortcuts,
    sites,
    structure,
    support,
    tails,
    times,
)
from lang1.remede.audit.finding import AuditReport, Finding
from lang1.remede.audit.material import Material
from lang1.remede.audit.settings import AuditSettings, guards, pitfalls, shipped_thresholds
from lang1.reporting.audit_report import render_audit

KIND = "audit"
JSON, HTML = "audit.json", "audit.html"
# By the module that looks: its check, and the pitfalls that stand unguarded where the check breaks off.
GUARDS: dict[str, tuple[Callable[[Material], list[Finding]], tuple[int, ...]]] = {
    "structure": (structure.check, (6, 11, 12, 16)),
    "note_times": (times.check, (2, 3)),
    "answer_text": (answers.check, (1,)),
    "phrases": (phrases.check, (1,)),
    "truncation": (rebuild.check, (4, 5, 9)),
    "duplicates": (duplicates.check, (6,)),
    "pretraining": (pretraining.check, (7,)),
    "observation": (observation.check, (8,)),
    "tails": (tails.check, (8,)),
    "shortcuts": (shortcuts.check, (23,)),
    "sites": (sites.check, (23,)),
    "denial_sources": (claims.check, (22,)),
    "deidentification": (masks.check, (17,)),
    "support": (support.check, (10, 13, 14, 20)),
}


def audit(
    benchmark: Path,
    out: Path,
    settings: AuditSettings | None = None,
    *,
    corpora: Sequence[Path] = (),
    models: Sequence[Path] = (),
) -> AuditReport:
    """Ask every guard of a benchmark and write ``audit.json`` and ``audit.html`` into the folder ``out``.

    The same benchmark and settings give the same findings. A guard that cannot be asked counts as failed: what was not
    checked is not sound.

    Args:
        benchmark: the benchmark's folder; its records must lie where it says.
        out: the folder to write, of kind ``audit``.
        settings: thresholds, sizes of samples, seed.
        corpora: corpus folders whose patients and dates are compared with the held-out ones.
        models: model folders, likewise.

    Raises:
        ArtefactError: a folder that is missing, damaged or of another kind, or ``out`` in the way.
        SettingsError: a detector or threshold that cannot be read.
    """
    settings = settings or AuditSettings()
    material = Material.open(Path(benchmark), settings, corpora, models)
    inputs = {"benchmark": material.folder, "records": material.records.folder}
    inputs |= {f"corpus {n}": folder for n, folder in enumerate(material.corpora)}
    inputs |= {f"model {n}": folder for n, folder in enumerate(material.models)}
    with new_folder(Path(out), KIND, inputs=inputs, settings=settings) as draft:
        report = AuditReport(str(Path(benchmark)), tuple(_ask(material)))
        ((patients,),) = material.sql("SELECT count(DISTINCT patient_id) FROM examples")
        said = {
            "lang1_audit": 1,
            "lang1_version": lang1.__version__,
            "benchmark": {
                "name": material.folder.path.name,
                "fingerprint": material.folder.fingerprint,
                "system": material.records.meta.system,
                "real": material.records.meta.real,
                "tasks": {task: card.title for task, card in material.cards.items()},
                "examples": material.sql("SELECT count(*) FROM examples")[0][0],
                "patients": patients,
            },
            "failed": report.failed,
            "guards": [{"name": name, **guard.model_dump()} for name, guard in guards().items()],
            "findings": [finding.as_json() for finding in report.findings],
            "pitfalls": report.covered(pitfalls()),
            "thresholds": [{"name": name, **settings.threshold(name).model_dump()} for name in shipped_thresholds()],
            "settings": settings.model_dump(mode="json"),
        }
        text = json.dumps(said, indent=1, ensure_ascii=False)
        (draft.path / JSON).write_text(text + "\n", encoding="utf-8")
        draft.counts["findings"] = {
            verdict: sum(finding.verdict == verdict for finding in report.findings)
            for verdict in ("fail", "warn", "pass", "not_applicable")
        }
        draft.extra["failed"] = report.failed
        render_audit(draft.path / JSON, draft.path / HTML)
    material.connection.close()
    return report


def _ask(material: Material) -> list[Finding]:
    findings: list[Finding] = []
    with Meter("audit", len(GUARDS), "guards") as meter:
        for name, (ask, numbers) in GUARDS.items():
            try:
                findings += ask(material)
            except Lang1Error as error:
                findings.append(Finding(name, numbers, None, "fail", f"This could not be checked: {error}"))
            meter.add(1, name)
    return findings
