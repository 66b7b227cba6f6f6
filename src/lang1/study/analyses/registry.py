"""All analyses in the order of the report; one that has no cells to look at returns None and is left out."""

from __future__ import annotations

from collections.abc import Callable

from lang1.reporting.study_schema import Analysis
from lang1.study.analyses.bias import bias_across_groups
from lang1.study.analyses.cost import cost_and_benefit
from lang1.study.analyses.paper_run import paper_run_again
from lang1.study.context import Context

ANALYSES: tuple[Callable[[Context], Analysis | None], ...] = (
    cost_and_benefit,
    bias_across_groups,
    paper_run_again,
)
