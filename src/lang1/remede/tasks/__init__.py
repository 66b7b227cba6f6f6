"""The tasks, one file each: how candidates, their outcome and the rules follow from card and records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from lang1.common.errors import SettingsError
from lang1.remede.card import Card
from lang1.remede.cohort import Facts, Rule, own_rules
from lang1.remede.support import check_support
from lang1.remede.tasks import comorbidity, given, insurance_denial, length_of_stay, mortality, readmission, sql_task
from lang1.remede.tasks.cohort_of import Cohort, need_notes

# By rule (``Card.rule_name``). Each makes the table ``candidates``, returns what its rows are and the rules to apply.
COHORTS: dict[str, Callable[[Card, Facts], Cohort]] = {
    "readmission": readmission.cohort,
    "mortality": mortality.cohort,
    "length_of_stay": length_of_stay.cohort,
    "comorbidity": comorbidity.cohort,
    "insurance_denial": insurance_denial.cohort,
    "sql": sql_task.cohort,
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
        if card.eligibility or card.observability or card.policies:
            facts.note(f"Labels of '{card.task}' are given, so the card's own SQL rules are not asked.")
        return given.cohort(card, facts)
    check_support(card, facts)
    made = COHORTS[card.rule_name](card, facts)
    return replace(made, rules=_with_own(made.rules, card))


def _with_own(rules: list[Rule], card: Card) -> list[Rule]:
    """The card's own rules among the task's.

    Eligibility stands after the task's eligibility, and a policy before the question whether the label can be known: a
    death has no discharge home to know of.
    """
    own = own_rules(card)
    after = max((number for number, rule in enumerate(rules, 1) if rule.reads == "eligibility"), default=0)
    rest = rules[after:]
    before = next((number for number, rule in enumerate(rest) if rule.reads == "observability"), len(rest))
    return [
        *rules[:after],
        *(rule for rule in own if rule.reads == "eligibility"),
        *rest[:before],
        *(rule for rule in own if rule.reads == "policy"),
        *rest[before:],
        *(rule for rule in own if rule.reads == "observability"),
    ]
