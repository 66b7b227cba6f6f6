"""The designs of a study at its home health system, each a function that adds steps and cells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lang1.study.grid import Generalist
from lang1.study.grid_designs import (
    Budget,
    Design,
    Efficiency,
    Joint,
    Longitudinal,
    OneModel,
    Seen,
    Single,
    Trajectory,
    Twins,
)
from lang1.study.maker import Maker, Start, over


def others(make: Maker, design: Design | None = None) -> dict[str, Any]:
    """How all but the main model, the baselines and the oracle are scored."""
    return over(make.grid.evaluate, make.grid.evaluate_others, design.evaluate if design is not None else {})


def seeds(make: Maker, design: Design, model: str = "") -> Sequence[int]:
    """The seeds of a design about a size: the design's own, the size's, the grid's."""
    return design.seeds or make.grid.models.get(model, {}).get("seeds") or make.grid.seeds


def chosen(make: Maker, design: OneModel) -> tuple[str, str]:
    """Mixture and size of a design about one model."""
    corpus, model = make.grid.chosen
    return design.corpus or corpus, design.model or model


def home_tasks(make: Maker) -> tuple[str, ...]:
    """Tasks of home's benchmark."""
    return make.tasks(make.benchmark_settings(make.grid.home))


def main_notes(make: Maker) -> int | None:
    """On how many notes the main model is finetuned where it matters most; null: all."""
    joint = make.grid.joint
    if joint is None:
        return None
    return joint.notes if joint.main_notes == "same" else joint.main_notes


def references(make: Maker) -> list[str]:
    """Benchmarks, truth and baselines of every health system; returns what is left out."""
    left_out = []
    for name, system in make.grid.systems.items():
        bench = make.benchmark(name)
        if system.truth is not None:
            oracle(make, name, bench, system.truth, make.grid.evaluate, design="grid", tested_on=name)
        else:
            left_out.append(f"{name}: its true risks are not known, so that no oracle is shown.")
        for baseline in make.grid.baselines:
            settings = over(make.grid.evaluate, make.grid.baseline)
            tasks = make.tasks(make.benchmark_settings(name))
            baselined(make, baseline, bench, tasks, settings, design="grid", tested_on=name, trained_on=(name,))
    return left_out


def oracle(make: Maker, name: str, bench: str, truth: str, settings: Mapping[str, Any], **about: Any) -> None:
    """The true risks at a benchmark."""
    step = make.add(f"oracle-at-{name}", "predictions", {"file": truth, "benchmark": bench}, settings)
    make.cell(step, "best possible (true risks)", bench, "oracle", role="oracle", **about)


def baselined(
    make: Maker, baseline: str, bench: str, tasks: Iterable[str], settings: Mapping[str, Any], **about: Any
) -> None:
    """A baseline at a benchmark; that of the payer is about denials alone."""
    made = over(settings, {"baseline": baseline})
    if baseline == "payer":
        denials = [task for task in tasks if task.startswith("insurance_denial")]
        if not denials:
            return
        made["tasks"] = denials
    step = make.add(f"{baseline}-at-{bench.removeprefix('benchmark-')}", "baseline", {"benchmark": bench}, made)
    make.cell(step, baseline, bench, "baseline", role="baseline", model=baseline, **about)


def zero_shots(make: Maker) -> None:
    """Every pretrained model as it is."""
    home = make.benchmark(make.grid.home)
    for corpus, model in _main_first(make):
        full = (corpus, model) == make.grid.chosen
        make.score(make.pretrained(corpus, model), home, make.grid.evaluate if full else others(make))


def joint(make: Maker, design: Joint) -> None:
    """Finetuned on all tasks."""
    tasks, home = home_tasks(make), make.benchmark(make.grid.home)
    wanted = _cells(design.models) if design.models is not None else make.grid.cells
    for corpus, model in [cell for cell in _main_first(make) if cell in wanted]:
        start, main = make.pretrained(corpus, model), (corpus, model) == make.grid.chosen
        sizes = [main_notes(make), design.notes] if main else [design.notes]
        for notes in dict.fromkeys(sizes):
            full = main and notes == sizes[0]
            for seed in seeds(make, design, model):
                tuned = make.finetuned(
                    start, home, [make.grid.home], design.finetune, seed, tasks=tasks, notes=notes, design="joint"
                )
                make.score(tuned, home, over(make.grid.evaluate if full else others(make), design.evaluate))


def single(make: Maker, design: Single) -> None:
    """Finetuned on one task alone, scored on all."""
    home, start = make.benchmark(make.grid.home), make.pretrained(*chosen(make, design))
    _single(make, start, design, design.tasks or home_tasks(make), home, design.notes, "")


def _single(
    make: Maker, start: Start, design: Design, tasks: Sequence[str], home: str, notes: int | None, way: str
) -> None:
    for task in tasks:
        for seed in seeds(make, design, start.size):
            tuned = make.finetuned(
                start,
                home,
                [make.grid.home],
                design.finetune,
                seed,
                tasks=[task],
                alone=True,
                notes=notes,
                design="single",
                way=way,
            )
            make.score(tuned, home, others(make, design), design="single", label=f"{start.label}, {task} alone")


def generalists(make: Maker) -> list[str]:
    """Models that others made; returns which are left out."""
    left_out = [
        f"{model} is left out: it goes on from {make.grid.start_of(model)}, of which no folder is given."
        for model in make.grid.without_start
    ]
    for name, generalist in make.grid.generalists.items():
        label = generalist.label or name
        if generalist.source is None:
            left_out.append(
                f"{label} is left out: no folder was given (set grid.generalists.{name}.source to its path)."
            )
            continue
        start = _taken(make, name, generalist)
        home = make.benchmark(make.grid.home)
        settings = over(make.grid.evaluate, generalist.evaluate)
        kind = "generalist" if generalist.server else "evaluate"
        for shots in [*([0] if generalist.zero_shot else []), *generalist.shots]:
            asked = over(settings, {"shots": shots} if shots else {})
            make.score(start, home, asked, kind=kind, regime="zero-shot")
        for way in generalist.finetuned if not generalist.server else ():
            notes = generalist.notes or main_notes(make)
            for tuned in _tuned_generalist(make, start, generalist, way, notes):
                make.score(tuned, home, settings, label=f"{label}, {way}", variant=way)
            if generalist.single:
                one = Design(seeds=generalist.seeds, finetune=generalist.finetuned[way], evaluate=generalist.evaluate)
                said = Start(start.step, f"{label}, {way}", {**start.about, "variant": way})
                _single(make, said, one, home_tasks(make), home, notes, way)
    return left_out


def _taken(make: Maker, name: str, generalist: Generalist) -> Start:
    """A generalist's folder imported, or the description of its server."""
    about = {"role": "generalist", "model": name}
    label = generalist.label or name
    assert generalist.source is not None
    if generalist.server:
        return Start(generalist.source, label, about)
    return Start(make.imported(name), label, about)


def _tuned_generalist(
    make: Maker, start: Start, generalist: Generalist, way: str, notes: int | None
) -> Iterable[Start]:
    for seed in generalist.seeds or make.grid.seeds:
        yield make.finetuned(
            start,
            make.benchmark(make.grid.home),
            [make.grid.home],
            generalist.finetuned[way],
            seed,
            tasks=home_tasks(make),
            notes=notes,
            design="joint",
            way=way,
        )


def twins(make: Maker, design: Twins) -> None:
    """General text alone against general and clinical text, finetuned on the same notes."""
    for model in design.models or [make.grid.chosen[1]]:
        for role, corpus in (("twin", design.general), ("specialist", design.clinical)):
            for seed in seeds(make, design, model):
                start = make.pretrained(corpus, model, seed=seed if design.pretrain_again else None)
                start = start.with_(role=role, variant=corpus)
                _sizes(make, start, design, design.notes, seed, "twins")


def efficiency(make: Maker, design: Efficiency) -> None:
    """Finetuned on nested sets of notes."""
    for corpus, model in _cells(design.models) if design.models is not None else [make.grid.chosen]:
        for seed in seeds(make, design, model):
            _sizes(make, make.pretrained(corpus, model), design, design.notes, seed, "efficiency")
    for name, generalist in make.grid.generalists.items():
        if generalist.source is None or generalist.server or name not in (design.generalists or make.grid.generalists):
            continue
        if design.generalists == []:
            continue
        start = _taken(make, name, generalist)
        for way in generalist.finetuned:
            for notes in design.notes:
                for tuned in _tuned_generalist(make, start, generalist, way, notes):
                    settings = over(others(make, design), generalist.evaluate)
                    label = f"{start.label}, {way}"
                    _score(make, tuned, settings, "efficiency", label=label, variant=way)


def _sizes(make: Maker, start: Start, design: Design, sizes: Iterable[int | None], seed: int, name: str) -> None:
    home = make.benchmark(make.grid.home)
    for notes in sizes:
        tuned = make.finetuned(
            start,
            home,
            [make.grid.home],
            design.finetune,
            seed,
            tasks=home_tasks(make),
            notes=notes,
            design=name,
        )
        _score(make, tuned, others(make, design), name)


def _score(make: Maker, tuned: Start, settings: Mapping[str, Any], design: str, **about: Any) -> None:
    make.score(tuned, make.benchmark(make.grid.home), settings, design=design, **about)


def trajectory(make: Maker, design: Trajectory) -> None:
    """Milestones of one pretraining, as they are."""
    corpus, model = chosen(make, design)
    start = make.pretrained(corpus, model)
    for number in range(1, design.milestones + 1):
        _score(make, make.milestone(start, model, number), others(make, design), "trajectory")


def budget(make: Maker, design: Budget) -> None:
    """Milestones × finetuning notes."""
    path = make.grid.trajectory
    assert path is not None
    corpus, model = chosen(make, path)
    start = make.pretrained(corpus, model)
    for number in design.at or range(1, path.milestones + 1):
        for seed in seeds(make, design, model):
            _sizes(make, make.milestone(start, model, number), design, design.notes, seed, "budget")


def seen(make: Maker, design: Seen) -> None:
    """A benchmark by time alone, whose temporal test holds patients of the training set."""
    grid = make.grid
    settings = over(make.benchmark_settings(grid.home), design.benchmark, {"policy": "time-only"})
    bench = make.copy_benchmark("time-only", grid.systems[grid.home].records, settings)
    corpus, model = chosen(make, design)
    if design.corpus is None:
        general = [name for name in grid.corpora if not make.systems_of(name)]
        pretrained = [name for name in general if (name, model) in grid.cells]
        corpus = next(iter(pretrained), corpus)
    if make.systems_of(corpus):  # its corpus holds patients whom this benchmark holds out: made anew against it
        systems = make.systems_of(corpus)
        start = make.pretrained(corpus, model, systems=systems, benchmark=bench, suffix="-time-only")
    else:
        start = make.pretrained(corpus, model)
    for seed in seeds(make, design, model):
        tasks = make.tasks(settings)
        tuned = make.finetuned(
            start, bench, [grid.home], design.finetune, seed, tasks=tasks, notes=design.notes, design="seen"
        )
        make.score(tuned, bench, others(make, design), design="seen", variant="time-only")


def longitudinal(make: Maker, design: Longitudinal) -> None:
    """One note against several, by token budget."""
    grid = make.grid
    home = grid.systems[grid.home]
    records = design.records or home.records
    known = design.truth or (home.truth if design.records is None else None)
    start = make.pretrained(*chosen(make, design))
    for name, read in design.inputs.items():
        settings = over(make.benchmark_settings(grid.home), read.benchmark)
        bench, tasks = make.copy_benchmark(name, records, settings), make.tasks(settings)
        judged = others(make, design)
        shared = {"design": "longitudinal", "variant": name}
        truth = read.truth or known
        if truth is not None:
            oracle(make, name, bench, truth, over(judged, {"allow_missing": True}), **shared)
        for baseline in design.baselines:
            made = over(judged, make.grid.baseline)
            baselined(make, baseline, bench, tasks, made, trained_on=(grid.home,), **shared)
        for tokens in read.budgets or design.budgets:
            for seed in seeds(make, design, start.size):
                tuned = make.finetuned(
                    start,
                    bench,
                    [grid.home],
                    over(design.finetune, {"note_budget": tokens}),
                    seed,
                    tasks=tasks,
                    notes=design.notes,
                    design="longitudinal",
                    way=f"{tokens}tokens",
                )
                make.score(tuned, bench, judged, budget=tokens, label=f"{start.label}, {name}", **shared)


def _cells(named: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    return [(corpus, model) for corpus, models in named.items() for model in models]


def _main_first(make: Maker) -> list[tuple[str, str]]:
    """The grid's cells, the main model first: a study that is stopped early has the most of it."""
    return sorted(make.grid.cells, key=lambda cell: cell != make.grid.chosen)
