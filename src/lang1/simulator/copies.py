"""Which health systems a simulation holds: those of its indices, and copies with components of another.

A copy answers what of another hospital's ways costs a model its accuracy. Copies of one system that keep its case mix
share a stream of random numbers and the ids of their patients: the same people, whom other authors write about, other
coders code, or other insurers pay for. So what a model says of them can be compared patient by patient. Their
original's patients are others, with other ids. A copy with another case mix has patients of its own.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lang1.simulator.charlson import CHARLSON
from lang1.simulator.settings import Component, Copy, SimulatorSettings
from lang1.simulator.signs import MANAGED, PAPERS, PAYER_DENIAL, PAYERS, REASONS, column
from lang1.simulator.styles import System, system

# Fields of System by component; the others (name, ids, places) belong to the hospital itself.
COMPONENTS: dict[Component, tuple[str, ...]] = {
    "style": ("style", "late_h_and_p", "late_discharge"),
    "coding": ("coding_factor", "coding_by_group", "miscoding_factor", "family_coded", "uncoded"),
    "case_mix": ("reason_weights", "burden_factor", "age", "acuity"),
    "payer": (
        "payer_shares", "senior_medicare", "payer_denial", "managed", "paper_weights", "unresolved",
    ),
}  # fmt: skip
_COPIES, _MIXES = 1000, 2000  # streams of copies lie beyond those of indices
_UNDERCODED, _WELL_CODED = 0.35, 1.05


def hospitals(settings: SimulatorSettings) -> list[System]:
    """The health systems of a simulation in their order: by index, then the copies."""
    by_index = [_of_index(index, settings) for index in range(settings.systems)]
    return by_index + [copied(copy, settings) for copy in settings.copies]


def _of_index(index: int, settings: SimulatorSettings) -> System:
    return far(system(index), index) if settings.contrast == "far" and index else system(index)


def far(near: System, index: int) -> System:
    """A system whose coding, case mix and payers are as unlike the first one's as hospitals are, or more.

    Coding: a third of the Charlson groups are mostly left uncoded, excluded and family conditions are often coded. Case
    mix: other reasons, and older and sicker patients at odd indices, younger and healthier ones at even. Payers: other
    shares, and each insurer denies for other papers than the first system's do; the sizes of the effects stay.
    """
    rng = np.random.default_rng([2025, index])
    groups = rng.permutation(len(CHARLSON)) < len(CHARLSON) // 3
    ill = 1.0 if index % 2 else -1.0
    shares = np.array([0.15, 0.25, 0.1, 0.25, 0.1, 0.1, 0.05]) * np.exp(rng.normal(0, 0.4, len(PAYERS)))
    weights = column(PAPERS, "other")
    papers = weights.copy()
    for same_sign in (np.flatnonzero(weights < 0), np.flatnonzero(weights > 0)):
        # The strong signs change places with the weak ones: each paper bears a weight of another.
        papers[same_sign] = np.roll(weights[same_sign], 1 + int(rng.integers(len(same_sign) - 1)))
    insured = np.arange(len(PAYERS) - 1)
    moved = np.concatenate([np.roll(insured, 1 + int(rng.integers(len(insured) - 1))), [len(PAYERS) - 1]])
    return replace(
        near,
        coding_by_group=np.where(groups, _UNDERCODED, _WELL_CODED),
        miscoding_factor=5.0,
        family_coded=0.12,
        uncoded=0.08,
        reason_weights=np.array([r.share for r in REASONS]) * np.exp(rng.normal(0, 1.0, len(REASONS))),
        burden_factor=float(near.burden_factor * np.exp(0.4 * ill)),
        age=62.0 + 8.0 * ill,
        acuity=0.6 * ill,
        payer_shares=shares / shares.sum(),
        senior_medicare=0.30,
        payer_denial=PAYER_DENIAL[moved],
        managed=MANAGED[moved],
        paper_weights=papers,
    )


def copied(copy: Copy, settings: SimulatorSettings) -> System:
    """A copy of a system, with the components of its donor; its name says which, and whose if not system 1's."""
    own, donor = _of_index(copy.of, settings), _of_index(copy.donor, settings)
    taken = {name: getattr(donor, name) for part in copy.swap for name in COMPONENTS[part]}
    parts = [part.replace("_", "-") for part in COMPONENTS if part in copy.swap]
    words = "all" if len(parts) == len(COMPONENTS) else "-".join(parts)
    name = f"{own.name}-{words or 'control'}"
    if copy.swap and copy.donor != 1:
        name += f"-of-{donor.name}"
    # A letter ends the prefix, so that no number that follows makes it another's.
    same_people = "case_mix" not in copy.swap
    prefix = f"{own.prefix}X" if same_people else f"{own.prefix}Y{copy.donor}Y"
    stream = _COPIES + copy.of if same_people else _MIXES + 64 * copy.of + copy.donor
    return replace(own, **taken, name=name, prefix=prefix, stream=stream)
