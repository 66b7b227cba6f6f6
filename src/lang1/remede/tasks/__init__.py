"""The tasks, one file each: how candidates, their outcome and the rules follow from card and records."""

from __future__ import annotations

from collections.abc import Callable

from lang1.common.errors import SettingsError
from lang1.remede.card import Card
from lang1.remede.cohort import Facts
from lang1.remede.tasks import comorbidity, given, insurance_denial, length_of_stay, mortality, readmission
from lang1.remede.tasks.cohort_of import Cohort, need_notes

# By rule (``Card.rule_name``). Each makes the table ``candidates``, returns what its rows are and the rules to apply.
COHORTS: dict[str, Callable[[Card, Facts], Cohort]] = {
    "readmission": readmission.cohort,
    "mortality": mortality.cohort,
    "length_of_stay": length_of_stay.cohort,
    "comorbidity": comorbidity.cohort,
    "insurance_denial": insurance_denial.cohort,
}


def cohort(card: Card, facts: Facts) -> Cohort:
    """Make ``candidates`` for a task: from given labels where the records hold some for it, else from the tables.

    Raises:
        Unsupported: the records lack what the task needs.
        InputError: a given label that cannot be read.
        SettingsError: the card names a rule that does not exist.
    """
    if card.rule_name not in COHORTS:
        raise SettingsError(f"{card.task}.yaml: 'rule' is '{card.rule_name}', expected one of {', '.join(COHORTS)}.")
    need_notes(card, facts)
    if given.present(card, facts):
        return given.cohort(card, facts)
    return COHORTS[card.rule_name](card, facts)
