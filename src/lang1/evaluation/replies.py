"""What a scorer said of each example, and what is told about the way it answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lang1.common.errors import InputError
from lang1.evaluation.asking import SWAPPED
from lang1.metrics.auroc import Floats


@dataclass(frozen=True)
class Reply:
    """One example's answer.

    Attributes:
        example_id: of the benchmark.
        scores: (C,) log-probability of each option, in the order of the classes.
        truncated: note tokens cut to fit the budget.
        bounded: options whose score is an upper bound, since the server did not list them.
        unparsed: share of drawn answers of which no option could be read; 1 where nothing was read at all.
    """

    example_id: str
    scores: Floats
    truncated: int
    bounded: int = 0
    unparsed: float = 0.0

    @property
    def read(self) -> bool:
        """Whether anything was read; otherwise the answer comes from the rule for unparsed ones."""
        return self.unparsed < 1.0

    def probabilities(self) -> Floats:
        """(C,) shares of the options alone; sums to 1."""
        shares = np.exp(self.scores - self.scores.max())
        return np.asarray(shares / shares.sum())

    @property
    def mass(self) -> float:
        """Share of probability that lies on the options, 0 where nothing was read."""
        return float(np.exp(self.scores).sum()) if self.read else 0.0

    def as_list(self) -> list[Any]:
        """For a journal; :meth:`of_list` is the inverse, to the last bit."""
        return [self.example_id, [float(s) for s in self.scores], self.truncated, self.bounded, self.unparsed]

    @classmethod
    def of_list(cls, line: Sequence[Any]) -> Reply:
        return cls(str(line[0]), np.array(line[1], dtype=np.float64), int(line[2]), int(line[3]), float(line[4]))


def check_scores(replies: Sequence[Reply], who: str) -> None:
    """Refuse scores that are no numbers.

    Raises:
        InputError: NaN or infinity; names the example.
    """
    bad = [one for one in replies if not (one.scores < np.inf).all() or not np.isfinite(one.scores).any()]
    if bad:
        raise InputError(
            f"{who}: no number as score of example {bad[0].example_id} ({len(bad)} such); the weights are damaged, or "
            "need precision=fp32."
        )


def merged(given: Reply, swapped: Reply | None) -> tuple[Floats, float]:
    """Probabilities and option mass of an example: as given, or the mean over both orders."""
    if swapped is None:
        return given.probabilities(), given.mass
    return (given.probabilities() + swapped.probabilities()) / 2, (given.mass + swapped.mass) / 2


def about_answers(replies: Mapping[str, Mapping[str, Reply]], given: str, tasks: Mapping[str, Sequence[str]]) -> Any:
    """By task, how a model answered: for the manifest and the reader who doubts a number.

    Args:
        replies: by variant and example.
        given: the variant that answers all examples.
        tasks: the examples of each task.

    Returns:
        By task ``examples``, ``option_mass`` (mean), ``unparsed`` (share of answers of which nothing was read),
        ``by_rule`` (examples answered by the rule for those), ``bounded`` (examples with an option that the server
        did not list), ``notes_cut`` (share), ``tokens_cut`` (mean of those that were cut), and ``swap``: of the
        examples asked in both orders how many, the mean absolute difference of a class's probability, the mean of the
        last class's probability reversed minus given, and the share whose likeliest class changed.
    """
    found: dict[str, Any] = {}
    for task, ids in tasks.items():
        mine = [replies[given][one] for one in ids if one in replies[given]]
        if not mine:
            continue
        cut = [one.truncated for one in mine if one.truncated]
        found[task] = {
            "examples": len(mine),
            "option_mass": float(np.mean([one.mass for one in mine])),
            "unparsed": float(np.mean([one.unparsed for one in mine])),
            "by_rule": sum(not one.read for one in mine),
            "bounded": sum(one.bounded > 0 for one in mine),
            "notes_cut": len(cut) / len(mine),
            "tokens_cut": float(np.mean(cut)) if cut else 0.0,
            "swap": _swap([(replies[given][i], replies[SWAPPED][i]) for i in ids if i in replies.get(SWAPPED, {})]),
        }
    return found


def _swap(pairs: Sequence[tuple[Reply, Reply]]) -> dict[str, Any] | None:
    read = [(a.probabilities(), b.probabilities()) for a, b in pairs if a.read and b.read]
    if not read:
        return None
    first, second = (np.stack([pair[i] for pair in read]) for i in (0, 1))
    return {
        "examples": len(read),
        "mean_absolute_difference": float(np.abs(first - second).mean()),
        "last_class_shift": float((second - first)[:, -1].mean()),
        "answers_changed": float((first.argmax(axis=1) != second.argmax(axis=1)).mean()),
    }


# Shares from which on a reader is told: of answers that change with the options' order, of probability on the options.
MANY_CHANGED, LITTLE_MASS = 0.1, 0.5


def doubts(answering: Mapping[str, Any], titles: Mapping[str, str], trained: bool) -> list[tuple[str, str]]:
    """What :func:`about_answers` found that a reader should know, as level and text, one line a kind of doubt.

    Args:
        answering: of a predictions manifest.
        titles: of the tasks that are shown.
        trained: whether the model was finetuned on one order of the options; then the other one says little of it.
    """
    found: list[tuple[str, str]] = []
    told = {task: about for task, about in answering.items() if task in titles}

    def listed(values: Mapping[str, str]) -> str:
        return "; ".join(f"{titles[task]} {value}" for task, value in values.items())

    ruled = {t: f"{a['by_rule']:,} of {a['examples']:,}" for t, a in told.items() if a["by_rule"]}
    if ruled:
        found.append(("warn", f"answers of which nothing could be read, for which a rule stands: {listed(ruled)}."))
    turned = {
        t: f"{a['swap']['answers_changed']:.0%}"
        for t, a in told.items()
        if a["swap"] and not trained and a["swap"]["answers_changed"] > MANY_CHANGED
    }
    if turned:
        found.append(("warn", f"answers that change when the options are turned round: {listed(turned)}."))
    little = {t: f"{a['option_mass']:.0%}" for t, a in told.items() if a["option_mass"] < LITTLE_MASS}
    if little:
        found.append(("info", f"share of probability on the options, the rest is on other words: {listed(little)}."))
    bounded = {t: f"{a['bounded']:,} of {a['examples']:,}" for t, a in told.items() if a["bounded"]}
    if bounded:
        found.append(("info", f"answers with an option that the server did not list (upper bound): {listed(bounded)}."))
    return found
