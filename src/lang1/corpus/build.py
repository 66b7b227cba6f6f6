"""From records and general text to a corpus folder."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lang1.common.artefact import Draft, new_folder
from lang1.common.errors import ArtefactError
from lang1.common.identity import PATIENT_HASHES, read_patient_hashes
from lang1.common.progress import say
from lang1.corpus.launch import run_here, run_on_ray, submit_slurm, write_slurm
from lang1.corpus.merging import merge
from lang1.corpus.planning import Inputs, input_refs, make_plan
from lang1.corpus.settings import CorpusSettings
from lang1.corpus.shards import token_dtype
from lang1.corpus.tasks import PLAN, Plan, work_folder
from lang1.corpus.writing import forget, load_tokenizer
from lang1.remede.benchmark import Benchmark


def build_corpus(records: Sequence[Path], benchmark: Path | None, out: Path, settings: CorpusSettings) -> Path:
    """Clean, filter, tokenize and shard text for pretraining.

    Only notes of patients of the benchmark's training fold, available before its pretraining cut, enter; what is
    left out is counted by reason. The same inputs and settings give the same bytes, on one process or many, on one
    machine or a cluster, and however often the work was interrupted: called again, it goes on.

    Args:
        records: records folders; none for a corpus of general text only.
        benchmark: the benchmark made from them, whose split table decides who may enter.
        out: the corpus folder to write.
        settings: see :class:`~lang1.corpus.settings.CorpusSettings`.

    Returns:
        ``out``; with ``launch.how=slurm`` the script that submits the jobs, the last of which makes ``out``.

    Raises:
        SettingsError: records without a benchmark, or weights that do not fit the sources.
        ArtefactError: a folder is not what it should be, or the benchmark was made from other records.
        InputError: text that cannot be read, or a source with nothing left.
    """
    out = Path(out)
    if out.exists():
        raise ArtefactError(f"{out} exists already: choose another folder, or remove it first.")
    inputs = Inputs.open(records, benchmark, settings)
    refs = input_refs(inputs, settings, work_folder(out))
    plan = make_plan(inputs, refs, out, settings)
    file = plan.save()
    forget()
    launch = settings.launch
    if launch.how == "slurm":
        script = write_slurm(plan, file, launch)
        say(submit_slurm(script) if launch.submit else f"{script.read_text()}\nsubmit the jobs: sh {script}")
        return script
    if launch.how == "ray":
        run_on_ray(plan, file, launch.ray_address)
    else:
        run_here(plan, file, settings.workers)
    with new_folder(out, "corpus", inputs=refs, settings=settings, resume=True) as draft:
        for stale in draft.path.iterdir():  # of a run that was stopped at this point
            if stale.name != file.parent.name:
                shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
        _finish(draft, plan, inputs)
        shutil.rmtree(file.parent)
    return out


def _finish(draft: Draft, plan: Plan, inputs: Inputs) -> None:
    tokenizer = load_tokenizer(plan.work / PLAN)
    tokenizer.save(draft.path / "tokenizer")
    merged = {one.name: merge(plan, one, draft.path / one.name, tokenizer) for one in plan.sources}
    judge = inputs.benchmark
    held_out = read_patient_hashes(judge.folder.path) if judge is not None else np.empty(0, dtype=np.int64)
    inside = np.unique(np.concatenate([one.patients for one in merged.values()]))
    shared = len(np.intersect1d(inside, held_out))
    if shared:
        raise ArtefactError(
            f"{shared} patients are in the benchmark's training fold and among its held-out patients: the benchmark "
            "is damaged, build it again."
        )
    if len(inside):
        np.save(draft.path / PATIENT_HASHES, inside)
    draft.extra["sources"] = {name: one.extra(inputs.weights[name]) for name, one in merged.items()}
    draft.extra["dtype"] = token_dtype(tokenizer.vocab_size).name
    draft.extra["vocab_size"] = tokenizer.vocab_size
    draft.extra["tokenizer"] = tokenizer.fingerprint
    draft.counts["patients"] = len(inside)
    draft.counts["cleaning"] = {name: one.cleaning() for name, one in merged.items()}
    if any(source.filters for source in plan.sources):
        draft.counts["filters"] = {one.name: merged[one.name].filtering(one.filters) for one in plan.sources}
    for name, one in merged.items():
        for reason, count in one.report.left_out.items():
            draft.leave_out(f"{name}: {reason}", count)
    draft.extra["benchmark"] = _named(judge)
    cut = judge.pretraining_cut if judge is not None else None
    draft.extra["cut"] = cut.isoformat() if cut is not None else None
    draft.extra["systems"] = [one.meta.system for one in inputs.records]
    draft.extra["guarded"] = all(one.guarded for one in inputs.rules)


def _named(benchmark: Benchmark | None) -> dict[str, str] | None:
    if benchmark is None:
        return None
    reference = benchmark.folder.ref()
    return {"path": reference.path, "fingerprint": reference.fingerprint}
