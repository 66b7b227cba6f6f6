"""A run over all examples in blocks of notes: resumable, and shared between processes.

The blocks are a function of the benchmark and the settings alone, so that an answer is batched with the same others
whether a run was stopped or not and however many processes shared it. Every process takes each WORLD-th block and
appends finished ones to a journal of its own; whoever gathers reads all journals. Under ``torchrun`` each rank is such
a process::

    torchrun --nproc-per-node 8 -m lang1.evaluation.shards MODEL BENCHMARK OUT zero-shot [FIELD=VALUE]...
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lang1
from lang1.common.artefact import write_json
from lang1.common.errors import Lang1Error, SettingsError
from lang1.common.progress import Meter
from lang1.common.settings import Settings
from lang1.evaluation.asking import Variant, variants
from lang1.evaluation.examples import NOTES_AT_A_TIME, Noted, asked
from lang1.evaluation.journal import SUFFIX, Journal, read_lines
from lang1.evaluation.replies import Reply, check_scores
from lang1.evaluation.scorers.local import Kind, LocalScorer, open_scorer
from lang1.evaluation.settings import EvaluateSettings
from lang1.remede.benchmark import Benchmark

# Notes of a block: enough for full batches of like length, few enough to share and to lose.
NOTES = 512
JOB = "job.json"
FACTS = "facts"
POLL_SECONDS = 0.5
# Settings on which no answer depends.
FREE = {"processes", "launcher", "resamples", "fast", "allow_missing", "device"}


class Job(Settings):
    """What all processes of a run must know."""

    kind: Kind
    model: Path
    model_fingerprint: str
    benchmark: Path
    benchmark_fingerprint: str
    settings: EvaluateSettings
    note_budget: int
    truncation: str
    shots: int
    notes: int
    what: str

    def run(self) -> dict[str, Any]:
        """What makes two runs the same, for the journals."""
        return {
            "model": self.model_fingerprint,
            "benchmark": self.benchmark_fingerprint,
            "settings": self.settings.model_dump(mode="json", exclude=FREE),
            "budget": [self.note_budget, self.truncation, self.shots, self.notes],
            "lang1": lang1.__version__,
        }


def plain(settings: EvaluateSettings) -> EvaluateSettings:
    """The settings without what a study's step adds to them."""
    return EvaluateSettings.model_validate({name: getattr(settings, name) for name in EvaluateSettings.model_fields})


def blocks(variant: Variant, size: int) -> list[list[Noted]]:
    """A variant's notes in blocks of ``size``, in a fixed order."""
    notes = variant.asked.notes()
    return [notes[start : start + size] for start in range(0, len(notes), size)]


def answer_shard(job: Job, place: Path, rank: int, world: int) -> None:
    """Answer every ``world``-th block from ``rank`` on that no journal in ``place`` holds yet."""
    settings = job.settings
    chosen = asked(Benchmark.open(job.benchmark), settings)
    done = finished(job, place)
    scorer = open_scorer(job.kind, job.model, settings, job.note_budget, job.truncation)
    ways = variants(chosen, settings, job.shots, scorer.cut)
    mine = [
        (f"{way.name}:{number}", way, block)
        for way in ways
        for number, block in enumerate(blocks(way, job.notes))
        if number % world == rank and f"{way.name}:{number}" not in done
    ]
    total = sum(len(items) for _, _, block in mine for _, items in block)
    with (
        Journal(place / f"answers-{rank}-of-{world}{SUFFIX}", job.run()) as journal,
        Meter(job.what if world == 1 else f"{job.what}, process {rank + 1} of {world}", total, "examples") as meter,
    ):
        journal.add(FACTS, {"name": scorer.name, "parameters": scorer.parameters, "device": str(scorer.device)})
        for key, way, groups in _read(mine, max(1, NOTES_AT_A_TIME // job.notes)):
            replies, tokens = _answer(scorer, way, groups, meter)
            check_scores(replies, str(job.model))
            journal.add(key, {"rows": [one.as_list() for one in replies], "tokens": tokens})


def _read(mine: Sequence[tuple[str, Variant, list[Noted]]], many: int) -> Iterator[tuple[str, Variant, list[Any]]]:
    """Blocks with their texts; each read of the notes table serves ``many`` blocks."""
    for start in range(0, len(mine), many):
        some = mine[start : start + many]
        for way in {id(way): way for _, way, _ in some}.values():
            own = [(key, block) for key, other, block in some if other is way]
            groups = way.asked.read([noted for _, block in own for noted in block])
            for key, block in own:
                yield key, way, [next(groups) for _ in block]


def _answer(scorer: LocalScorer, way: Variant, groups: Sequence[Any], meter: Meter) -> tuple[list[Reply], int]:
    replies, tokens = scorer.answer(groups, way.questions)
    meter.add(len(replies))
    return replies, tokens


def finished(job: Job, place: Path) -> dict[str, dict[str, Any]]:
    """Lines of all journals of this run by key; a key that stands in two of them counts once."""
    found: dict[str, dict[str, Any]] = {}
    for file in sorted(place.glob(f"answers-*{SUFFIX}")):
        for key, line in read_lines(file, job.run()).items():
            found.setdefault(key, line)
    return found


def gather(job: Job, place: Path) -> tuple[dict[str, dict[str, Reply]], int, Mapping[str, Any]] | None:
    """Replies by variant and example, tokens, and facts about the model; None where a block is not answered yet."""
    chosen = asked(Benchmark.open(job.benchmark), job.settings)
    lines = finished(job, place)
    replies: dict[str, dict[str, Reply]] = {}
    tokens = 0
    for way in variants(chosen, job.settings, 0, lambda text, budget, policy: text):
        rows = replies.setdefault(way.name, {})
        for number in range(len(blocks(way, job.notes))):
            line = lines.get(f"{way.name}:{number}")
            if line is None:
                return None
            tokens += int(line["tokens"])
            for row in line["rows"]:
                one = Reply.of_list(row)
                assert one.example_id not in rows, "blocks are disjoint"
                rows[one.example_id] = one
    return replies, tokens, lines[FACTS]


def answer_all(job: Job, place: Path) -> tuple[dict[str, dict[str, Reply]], int, Mapping[str, Any]]:
    """Answer everything, in this process, in several here, or on a Ray cluster.

    Raises:
        Lang1Error: a process stopped; finished blocks are kept.
        SettingsError: Ray is asked for and not installed.
    """
    write_json(place / JOB, job.model_dump(mode="json"))
    world = job.settings.processes
    if job.settings.launcher == "ray":
        _on_ray(job, place, world)
    elif world == 1:
        answer_shard(job, place, 0, 1)
    else:
        _here(place, world)
    found = gather(job, place)
    if found is None:
        raise Lang1Error(f"{place}: blocks are missing though every process ended; run the same command again.")
    return found


def _here(place: Path, world: int) -> None:
    """Processes on this machine, the processors shared evenly; each takes the CUDA device of its number."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, cores // world))}
    running: list[subprocess.Popen[str]] = []
    logs = [place / f"process-{rank}.log" for rank in range(world)]
    try:
        for rank, log in enumerate(logs):
            command = [sys.executable, "-m", "lang1.evaluation.shards", "--shard", str(place), str(rank), str(world)]
            with log.open("w") as stream:
                own = {**environment, "LOCAL_RANK": str(rank)}
                # The first one's progress is shown; the others' would be the same line again.
                running.append(subprocess.Popen(command, env=own, stderr=stream if rank else None, text=True))
        codes = [process.wait() for process in running]
    finally:
        for process in running:
            if process.poll() is None:
                process.terminate()
    for rank, code in enumerate(codes):
        if code:
            said = logs[rank].read_text(errors="replace").strip().splitlines()[-1:] or ["see its message above"]
            raise Lang1Error(
                f"process {rank + 1} of {world} stopped ({said[0] if code > 0 else f'signal {-code}'}); finished "
                "blocks are kept: run the same command again to go on."
            )


def _on_ray(job: Job, place: Path, world: int) -> None:
    try:
        import ray  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise SettingsError("launcher=ray needs Ray: pip install 'lang1[ray]', or use launcher=local.") from error
    started = not ray.is_initialized()
    if started:
        ray.init(address=os.environ.get("RAY_ADDRESS"), log_to_driver=False)
    gpus = 1 if job.settings.device != "cpu" and ray.cluster_resources().get("GPU", 0) >= world else 0
    try:
        remote = ray.remote(num_cpus=1, num_gpus=gpus)(_shard)
        ray.get([remote.remote(str(place.resolve()), rank, world) for rank in range(world)])
    except ray.exceptions.RayError as error:
        first = " ".join(str(error).split())[:200]
        raise Lang1Error(f"a Ray task stopped ({first}); finished blocks are kept: run it again to go on.") from error
    finally:
        if started:
            ray.shutdown()


def _shard(place: str, rank: int, world: int) -> None:
    """One process of :func:`answer_all`."""
    from lang1.common.artefact import read_json
    from lang1.common.settings import validate_settings

    job = validate_settings(Job, read_json(Path(place) / JOB), f"{place}/{JOB}")
    answer_shard(_on_own_device(job), Path(place), rank, world)


def _on_own_device(job: Job) -> Job:
    """The job on the CUDA device of this process, where there are several."""
    import torch

    threads = os.environ.get("OMP_NUM_THREADS")
    if threads:
        torch.set_num_threads(int(threads))
    if job.settings.device not in ("auto", "cuda") or torch.cuda.device_count() < 2:
        return job
    own = f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"
    return job.model_copy(update={"settings": job.settings.model_copy(update={"device": own})})


def torchrun_rank() -> tuple[int, int]:
    """This process's rank and how many there are, of torchrun; 0 and 1 without it."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def answer_ranks(job: Job, place: Path) -> tuple[dict[str, dict[str, Reply]], int, Mapping[str, Any]] | None:
    """:func:`answer_all` where torchrun started the processes; rank 0 waits for the others and gathers."""
    rank, world = torchrun_rank()
    answer_shard(_on_own_device(job), place, rank, world)
    if rank:
        return None
    while (found := gather(job, place)) is None:  # torchrun ends this process when another fails
        time.sleep(POLL_SECONDS)
    return found


def main(arguments: Sequence[str]) -> int:
    """``--shard PLACE RANK WORLD`` for processes started here; under torchrun see the top of this file."""
    try:
        if arguments and arguments[0] == "--shard":
            _shard(arguments[1], int(arguments[2]), int(arguments[3]))
            return 0
        from lang1.common.settings import load_settings
        from lang1.evaluation.predict_benchmark import evaluate_generalist, evaluate_model

        if len(arguments) < 4:
            raise SettingsError("expected MODEL BENCHMARK OUT REGIME [FIELD=VALUE]...")
        model, benchmark, out = (Path(a) for a in arguments[:3])
        settings = load_settings(EvaluateSettings, overrides=arguments[4:])
        if (model / "manifest.json").is_file():
            evaluate_model(model, benchmark, out, settings, regime=arguments[3])
        else:
            evaluate_generalist(model, benchmark, out, settings, regime=arguments[3])
    except Lang1Error as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
