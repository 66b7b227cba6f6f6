"""What a task needs of the records, beyond what its rule finds out itself."""

from __future__ import annotations

from lang1.remede.card import Card
from lang1.remede.cohort import Facts, rows


def check_support(card: Card, facts: Facts) -> None:
    """Ask what the records say that they cannot support, and what the card says that it needs.

    A limit on a task holds for the variants that share its rule too.

    Raises:
        Unsupported: the task is not to be built from these records; or it is marked (``mark_unsupported``).
    """
    for limit in facts.meta.limits:
        if limit.task in (card.task, card.rule_name, card.based_on):
            facts.lacks(card, limit.reason.strip().rstrip("."))
    for name in card.supported_by.needs:
        if not _holds(facts, name):
            facts.lacks(card, f"the records hold no {name}")
    for name in card.supported_by.warns:
        if not _holds(facts, name):
            facts.note(f"Task '{card.task}': the records hold no {name}. {card.supported_by.words}".rstrip())


def _holds(facts: Facts, name: str) -> bool:
    table, _, column = name.partition(".")
    known = f"WHERE {column} IS NOT NULL" if column else ""
    return bool(rows(facts.connection, f"SELECT 1 FROM {table} {known} LIMIT 1"))
