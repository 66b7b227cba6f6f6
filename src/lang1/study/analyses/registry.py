"""All analyses in the order of the report; one that has no cells to look at returns None and is left out."""

from __future__ import annotations

from collections.abc import Callable

from lang1.reporting.study_schema import Analysis
from lang1.study.analyses.bias import bias_across_groups
from lang1.study.analyses.budget import budget
from lang1.study.analyses.calibration import calibration
from lang1.study.analyses.cost import cost_and_benefit
from lang1.study.analyses.drivers import drivers
from lang1.study.analyses.efficiency import efficiency
from lang1.study.analyses.external import external
from lang1.study.analyses.finetuned import finetuned
from lang1.study.analyses.longitudinal import longitudinal
from lang1.study.analyses.mixture import mixture
from lang1.study.analyses.paper_run import paper_run_again
from lang1.study.analyses.periods import periods
from lang1.study.analyses.perplexity import perplexity
from lang1.study.analyses.seen import seen
from lang1.study.analyses.subgroups import subgroups
from lang1.study.analyses.systems import systems
from lang1.study.analyses.trajectory import trajectory
from lang1.study.analyses.transfer import transfer
from lang1.study.analyses.twins import twins
from lang1.study.analyses.zero_shot import zero_shot
from lang1.study.context import Context

ANALYSES: tuple[Callable[[Context], Analysis | None], ...] = (
    zero_shot,
    finetuned,
    transfer,
    trajectory,
    budget,
    efficiency,
    twins,
    mixture,
    perplexity,
    periods,
    calibration,
    subgroups,
    seen,
    external,
    systems,
    drivers,
    longitudinal,
    cost_and_benefit,
    bias_across_groups,
    paper_run_again,
)
