"""The designs of a study over several health systems."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lang1.common.errors import SettingsError
from lang1.study.expand_designs import chosen, home_tasks, main_notes, oracle, others, seeds
from lang1.study.grid_designs import Joint, Swaps, Systems
from lang1.study.maker import Maker, Start, over

# What decides over a patient's fold: it must be one rule where health systems are pooled, or a patient whom one
# benchmark holds out would be trained on through the other.
FOLDS = ("salt", "fractions", "policy")


def across(make: Maker, design: Systems) -> list[str]:
    """Trained at one health system, tested at each; returns what is left out."""
    grid, systems = make.grid, list(make.grid.systems)
    if len(systems) < 2:
        raise SettingsError(f"{make.source}: grid.across: it needs two health systems; there is '{systems[0]}'.")
    run = _Across(make, design)
    for trained in systems:
        start = run.start([trained])
        for tested in systems:
            if trained in (tested, grid.home):
                variant = "home" if trained == tested else "away"
                run.score(start, tested, variant)
                if trained == tested != grid.home:
                    run.score(start, tested, "", design="grid")
        for tuned in run.tuned(start, [trained], make.benchmark(trained), design.notes):
            for tested in systems:
                if trained == tested:
                    run.score(tuned, tested, "home")
                    if trained != grid.home:
                        run.score(tuned, tested, "", design="grid")
                elif "away" in design.variants:
                    run.score(tuned, tested, "away")
    left_out = []
    if "pooled" in design.variants:
        run.pooled(systems, systems, "pooled")
    if "leave-one-out" in design.variants:
        if len(systems) > 2:
            for tested in systems:
                run.pooled([name for name in systems if name != tested], [tested], "leave-one-out")
        else:
            left_out.append("leave-one-out: with two health systems it is the same as training at the other one.")
    if "size-matched" in design.variants and design.matched is not None:
        start = run.start([grid.home])
        for tuned in run.tuned(start, [grid.home], make.benchmark(grid.home), design.matched):
            for tested in systems:
                run.score(tuned, tested, "size-matched")
    return left_out


class _Across:
    def __init__(self, make: Maker, design: Systems) -> None:
        self.make, self.design = make, design
        self.corpus, self.model = chosen(make, design)

    def start(self, systems: Sequence[str]) -> Start:
        """What is finetuned: a model of these systems' own notes, or home's."""
        declared = self.make.systems_of(self.corpus)
        own = self.design.pretrain == "own" and bool(declared) and list(systems) != declared
        return self.make.pretrained(self.corpus, self.model, systems=systems if own else None)

    def tuned(self, start: Start, systems: Sequence[str], benchmark: str, notes: int | None) -> list[Start]:
        tasks = self.make.tasks(self.make.benchmark_settings(systems[0]))
        return [
            self.make.finetuned(
                start, benchmark, systems, self.design.finetune, seed, tasks=tasks, notes=notes, design="across"
            )
            for seed in seeds(self.make, self.design, start.size)
        ]

    def score(self, model: Start, tested: str, variant: str, design: str = "systems") -> None:
        bench = self.make.benchmark(tested)
        about: dict[str, Any] = {"tested_on": tested, "variant": variant, "design": design}
        self.make.score(model, bench, others(self.make, self.design), **about)

    def pooled(self, trained: Sequence[str], tested: Sequence[str], variant: str) -> None:
        rules = [self.make.benchmark_settings(name) for name in trained]
        for field in FOLDS:
            if any(rule.get(field) != rules[0].get(field) for rule in rules):
                raise SettingsError(
                    f"{self.make.source}: grid.across: {' and '.join(trained)} differ in benchmark.{field}: pooled "
                    "training would see patients whom one of them holds out. Set it once, in grid.benchmark."
                )
        benchmark = self.make.guarded_by(list(trained))[1]
        for tuned in self.tuned(self.start(trained), trained, benchmark, self.design.notes):
            for name in tested:
                self.score(tuned, name, variant)


def swaps(make: Maker, design: Swaps) -> None:
    """Home's main model, tested on copies of home."""
    grid = make.grid
    start = make.pretrained(*grid.chosen)
    home = make.benchmark(grid.home)
    settings = make.benchmark_settings(grid.home)
    for name, swap in design.systems.items():
        bench = make.copy_benchmark(name, swap.records, settings)
        about: dict[str, Any] = {"design": "swaps", "tested_on": name, "variant": name.replace("-", " ")}
        if swap.truth is not None:
            oracle(make, name, bench, swap.truth, others(make, design), **about)
        joint = over(grid.joint.finetune if grid.joint is not None else {}, design.finetune)
        for seed in design.seeds or seeds(make, grid.joint or Joint(), start.size):
            tuned = make.finetuned(
                start, home, [grid.home], joint, seed, tasks=home_tasks(make), notes=main_notes(make), design="swaps"
            )
            make.score(tuned, bench, others(make, design), **about)
