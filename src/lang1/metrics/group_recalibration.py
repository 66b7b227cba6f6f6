"""Recalibration of stated risks group by group, drawn towards one map for all: Platt's, fitted on validation alone.

The map of a group is the map of all, moved in intercept and slope. How far groups differ beyond what chance gives them
is told from the validation rows themselves (empirical Bayes: moves are normal with a spread that is most likely given
all groups' own fits); by that spread each group's own fit is drawn towards no move. So groups that do not differ keep
the map of all, and a small group moves less than a large one. Shapes: N rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize

from lang1.common.errors import InputError
from lang1.metrics.auroc import Floats, checked_scores
from lang1.metrics.calibration import fit_logit, logits

# Spreads that are tried, in log-odds: of the intercept, and of the slope over a standard deviation of the logits.
SPREADS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 2.0)
# Keeps a group's own fit finite where its rows would not.
WIDEST = 2.0
# With fewer cases (or non-cases) in validation a group keeps the map of all.
LEAST_CASES = 10
Names = npt.NDArray[np.object_]


@dataclass(frozen=True)
class GroupMaps:
    """Maps from stated to corrected risks: ``common`` for all, ``own`` by group; each is intercept and slope on logits.

    Attributes:
        common: of all rows.
        own: by group.
        spread: how far groups differ, see the module's head; 0 where not beyond chance.
        fallen_back: groups of validation that keep the common map, with the reason.
    """

    common: tuple[float, float]
    own: dict[str, tuple[float, float]]
    spread: float
    fallen_back: dict[str, str]

    def for_all(self, risks: npt.ArrayLike) -> Floats:
        """Corrected by the common map, ``[N]``."""
        return _risk(self.common, logits(np.asarray(risks, dtype=np.float64)))

    def by_group(self, risks: npt.ArrayLike, groups: Names) -> Floats:
        """Corrected by each row's own map, ``[N]``; a group that validation did not hold has the common one."""
        found = self.for_all(risks)
        said = logits(np.asarray(risks, dtype=np.float64))
        for name, line in self.own.items():
            inside = groups == name
            found[inside] = _risk(line, said[inside])
        return found


def fit_group_maps(labels: npt.ArrayLike, risks: npt.ArrayLike, groups: Names) -> GroupMaps | None:
    """Fit on validation rows; None where these do not determine even the common map, or it falls.

    Args:
        labels: bool or 0/1, ``[N]``.
        risks: as stated, ``[N]``.
        groups: the group of each row, ``[N]``.

    Raises:
        InputError: a risk is NaN, or lengths differ.
    """
    case = np.asarray(labels).astype(np.float64)
    said = logits(checked_scores(risks, len(case)))
    if len(groups) != len(case):
        raise InputError(f"recalibration: {len(case)} labels for the groups of {len(groups)} rows.")
    common = fit_logit(case, said)
    if common is None or common[1] <= 0:
        return None
    centre, scale = float(said.mean()), float(said.std())
    fits: dict[str, _Fit] = {}
    fallen_back: dict[str, str] = {}
    for name in np.unique(groups.astype(str)):
        inside = groups == name
        cases = int(case[inside].sum())
        if min(cases, int(inside.sum()) - cases) < LEAST_CASES:
            fallen_back[str(name)] = f"fewer than {LEAST_CASES} of a class in validation"
        else:
            start, unit = common[0] + common[1] * said[inside], (said[inside] - centre) / scale
            fits[str(name)] = _fit(case[inside], start, unit)
    spread = max(SPREADS, key=lambda each: _likelihood(list(fits.values()), each))
    own: dict[str, tuple[float, float]] = {}
    for name, fit in fits.items():
        move = fit.drawn_in(spread)
        slope = float(move[1]) / scale
        if common[1] + slope > 0:
            own[name] = (common[0] + float(move[0]) - slope * centre, common[1] + slope)
        else:  # a falling map would turn the ranking within the group round
            fallen_back[name] = "validation shows no rising risk in it"
    return GroupMaps(common, own, spread, fallen_back)


@dataclass(frozen=True)
class _Fit:
    """A group's own move ``[2]``, and the information ``[2, 2]`` that its rows hold about it."""

    move: Floats
    information: Floats

    def drawn_in(self, spread: float) -> Floats:
        """The most likely move given how far groups differ."""
        if spread == 0:
            return np.zeros(2)
        held = self.information
        return np.asarray(np.linalg.solve(held + np.eye(2) / spread**2, held @ self.move))


def _fit(case: Floats, start: Floats, unit: Floats) -> _Fit:
    design = np.stack([np.ones(len(case)), unit], axis=1)

    def loss(move: Floats) -> tuple[float, Floats]:
        line = start + design @ move
        missed = 1 / (1 + np.exp(-np.clip(line, -500, 500))) - case
        value = (np.logaddexp(0.0, line) - case * line).sum() + (move**2).sum() / (2 * WIDEST**2)
        return float(value), missed @ design + move / WIDEST**2

    held = optimize.minimize(loss, np.zeros(2), jac=True, method="BFGS").x
    risk = 1 / (1 + np.exp(-np.clip(start + design @ held, -500, 500)))
    information = (design * (risk * (1 - risk))[:, None]).T @ design + 1e-9 * np.eye(2)
    # Where the rows alone would put it: what the wide prior held back is given back, to second order.
    return _Fit(held + np.linalg.solve(information, held / WIDEST**2), information)


def _likelihood(fits: Sequence[_Fit], spread: float) -> float:
    """Log-likelihood of the groups' own moves where these are normal around 0 with this spread."""
    total = 0.0
    for fit in fits:
        variance = np.linalg.inv(fit.information) + spread**2 * np.eye(2)
        total -= 0.5 * float(np.linalg.slogdet(variance)[1] + fit.move @ np.linalg.solve(variance, fit.move))
    return total


def _risk(line: tuple[float, float], said: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(line[0] + line[1] * said, -500, 500))))
