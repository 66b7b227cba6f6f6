"""An index over validated results: who was compared, on which task and split, and which row says what."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from lang1.reporting import words
from lang1.reporting.schema import Results, Row, Task

WHOLE = (None, "", "all", "overall")  # how rows about everybody write their stratum
MARKERS = ("circle", "square", "diamond", "triangle", "wedge", "cross")


@dataclass(frozen=True)
class Entry:
    """One competitor: a model in a regime (and a seed, where several seeds were run).

    ``role`` decides colour and order: specialist, self (the specialist before finetuning), generalist, baseline,
    oracle.
    """

    model: str
    regime: str
    role: str
    label: str
    short: str
    marker: str
    about: str
    seed: int | None = None

    @property
    def name(self) -> str:
        """The model without its regime; generalists may be named by their folder, of which the last part stays."""
        return re.split(r"[/\\]", self.model.rstrip("/\\"))[-1]

    @property
    def key(self) -> str:
        """As ``versus`` writes it."""
        return f"{self.model}|{self.regime}"


CellKey = tuple[str, str, str, str, str, str]  # task, model|regime, metric, split, class, versus


class Index:
    """Looks rows up; knows the order of tasks, models and splits in which a report shows them."""

    def __init__(self, results: Results) -> None:
        self.results = results
        self.repeated = 0
        self._cells: dict[tuple[CellKey, int | None], Row] = {}
        self._seeded: set[str] = set()
        whole = [row for row in results.rows if row.stratum in WHOLE]
        self._find_seeds(whole)
        for row in whole:
            place = (_cell(row), row.seed if f"{row.model}|{row.regime}" in self._seeded else None)
            if place in self._cells:
                self.repeated += 1
            else:
                self._cells[place] = row
        self.tasks = self._tasks()
        self.entries = self._entries()
        self.primary = self._primary()

    def _find_seeds(self, rows: list[Row]) -> None:
        seeds: dict[CellKey, set[int | None]] = {}
        for row in rows:
            seeds.setdefault(_cell(row), set()).add(row.seed)
        self._seeded = {cell[1] for cell, found in seeds.items() if len(found) > 1}

    def _tasks(self) -> list[Task]:
        known = {task.task: task for task in self.results.tasks}
        for row in self.results.rows:
            if row.task not in known:
                known[row.task] = Task(task=row.task)
        return [
            task.model_copy(
                update={
                    "title": task.title or task.task.replace("_", " ").capitalize(),
                    "headline_split": task.headline_split or self._first_split(task.task),
                }
            )
            for task in known.values()
        ]

    def _first_split(self, task: str) -> str | None:
        return next((row.split for row in self.results.rows if row.task == task and row.metric == "auroc"), None)

    def _entries(self) -> list[Entry]:
        """Everybody who has a row or a curve, specialists first and the oracle last."""
        pairs: dict[tuple[str, str, int | None], None] = {}
        for row in self.results.rows:
            pairs[row.model, row.regime, row.seed if f"{row.model}|{row.regime}" in self._seeded else None] = None
        for curve in self.results.curves:
            if not any((curve.model, curve.regime) == pair[:2] for pair in pairs):
                pairs[curve.model, curve.regime, None] = None
        own = {model for model, regime, _ in pairs if regime in ("finetuned", "joint")}
        made = [_entry(model, regime, seed, model in own) for model, regime, seed in pairs]
        made.sort(key=lambda e: (_ROLES.index(e.role), words.baseline_rank(e.model) if e.role == "baseline" else 0))
        return _distinct_markers(_distinct_names(made))

    def _primary(self) -> Entry | None:
        """The specialist of the headline: the one with AUROCs on most tasks, the first of equals."""
        specialists = [entry for entry in self.entries if entry.role == "specialist"]
        return max(specialists, key=lambda e: sum(self.auroc(t, e) is not None for t in self.tasks), default=None)

    def by_role(self, *roles: str) -> list[Entry]:
        """Competitors of these roles, in the report's order."""
        return [entry for entry in self.entries if entry.role in roles]

    def entry(self, key: str) -> Entry:
        """The competitor that a ``versus`` names, also one that has no rows of its own."""
        for entry in self.entries:
            if entry.key == key or entry.model == key:
                return entry
        model, _, regime = key.partition("|")
        return _entry(model, regime or "baseline", None, False)

    def row(
        self,
        task: Task,
        entry: Entry,
        metric: str,
        split: str | None = None,
        class_: str | None = None,
        versus: str | None = None,
    ) -> Row | None:
        """The row of a cell; the headline split unless another is named."""
        key = (task.task, entry.key, metric, split or task.headline_split or "", class_ or "", versus or "")
        return self._cells.get((key, entry.seed))

    def auroc(self, task: Task, entry: Entry, split: str | None = None) -> Row | None:
        """The AUROC row of a competitor."""
        return self.row(task, entry, "auroc", split)

    def paired(self, task: Task, entry: Entry, metric: str = "auroc") -> list[Row]:
        """The paired differences of a competitor on the headline split, in the order of those it is compared with."""
        order = {other.key: place for place, other in enumerate(self.entries)}
        found = [
            row
            for (cell, seed), row in self._cells.items()
            if row.versus
            and (row.task, cell[1], row.metric) == (task.task, entry.key, metric)
            and (row.split or "") == (task.headline_split or "")
            and seed == entry.seed
            and row.class_ is None
        ]
        return sorted(found, key=lambda row: order.get(row.versus or "", len(order)))

    def metrics(self, task: Task) -> list[str]:
        """Metrics of a task on its headline split, differences aside, in order of appearance."""
        return list(
            dict.fromkeys(
                row.metric
                for row in self._cells.values()
                if row.task == task.task and not row.versus and (row.split or "") == (task.headline_split or "")
            )
        )

    def splits(self, task: Task, metric: str = "auroc") -> list[str]:
        """Splits on which a task has this metric, in order of time."""
        found = {r.split for r in self._cells.values() if r.task == task.task and r.metric == metric and not r.versus}
        return sorted((split for split in found if split), key=words.split_rank)

    def classes(self, task: Task) -> list[str]:
        """The classes of a multiclass task that have AUROCs of their own on the headline split."""
        found = dict.fromkeys(
            row.class_
            for row in self._cells.values()
            if row.task == task.task and row.metric == "auroc_class" and row.class_ is not None
        )
        return sorted(
            (c for c in found if c is not None), key=lambda c: (not c.isdigit(), int(c) if c.isdigit() else 0)
        )

    def class_title(self, task: Task, class_: str | None) -> str:
        """A class in words: from the class shares, else the task's options, else as it is written."""
        if class_ is None:
            return ""
        for share in self.results.shares:
            if share.task == task.task and share.class_ == class_ and share.label:
                return share.label
        if class_.isdigit() and int(class_) < len(task.options):
            return task.options[int(class_)]
        return class_

    def strata(self) -> list[Row]:
        """Rows about subgroups, whatever their metric."""
        return [r for r in self.results.rows if r.stratum not in WHOLE and not r.versus]


_ROLES = ("specialist", "self", "generalist", "baseline", "oracle")


def _cell(row: Row) -> CellKey:
    return (row.task, f"{row.model}|{row.regime}", row.metric, row.split or "", row.class_ or "", row.versus or "")


def _entry(model: str, regime: str, seed: int | None, own: bool) -> Entry:
    tail = "" if seed is None else f", seed {seed}"
    if regime == "oracle":
        return Entry(model, regime, "oracle", "Oracle" + tail, "Oracle", "tick", "the true risk, given the note", seed)
    if regime == "baseline":
        known = words.baseline(model)
        if known is None:
            return Entry(model, regime, "baseline", model + tail, _shorten(model), "cross", "baseline", seed)
        title, short, marker, about = known
        return Entry(model, regime, "baseline", title + tail, short, marker, about, seed)
    name = Entry(model, regime, "", "", "", "", "").name
    label = f"{name}, {words.REGIME_WORDS.get(regime, regime)}{tail}"
    short = _shorten(f"{name}, {'joint' if regime == 'joint' else regime}{tail}")
    if regime in ("finetuned", "joint"):
        about = "trained further on labelled examples" + (" of all tasks at once" if regime == "joint" else "")
        return Entry(model, regime, "specialist", label, short, "circle", about, seed)
    about = "answers without training on labelled examples" + (" (the same model before finetuning)" if own else "")
    return Entry(
        model, regime, "self" if own else "generalist", label, short, "circle" if own else "diamond", about, seed
    )


def _distinct_names(entries: list[Entry]) -> list[Entry]:
    """Competitors whose names are equal once shortened keep their whole names."""
    labels = [entry.label for entry in entries]
    return [
        replace(e, label=e.label.replace(e.name, e.model, 1), short=_shorten(e.short.replace(e.name, e.model, 1)))
        if labels.count(e.label) > 1
        else e
        for e in entries
    ]


def _distinct_markers(entries: Iterable[Entry]) -> list[Entry]:
    """Within a role, no two competitors share a marker while markers last."""
    made: list[Entry] = []
    for entry in entries:
        taken = {other.marker for other in made if other.role == entry.role}
        if entry.marker in taken:
            entry = replace(entry, marker=next((m for m in MARKERS if m not in taken), entry.marker))
        made.append(entry)
    return made


def _shorten(text: str, limit: int = 22) -> str:
    return text if len(text) <= limit else text[: limit - 1].rstrip(" ,") + "…"
