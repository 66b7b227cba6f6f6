"""Whether the data support the tasks and the rows are all there: limits, sampling, drops, hashes of questions."""

from __future__ import annotations

import hashlib

import numpy as np

from lang1.remede.audit.finding import Finding, first
from lang1.remede.audit.material import Material
from lang1.remede.cohort import literal
from lang1.reporting.numbers import percent, plural

GUARD = "support"


def check(material: Material) -> list[Finding]:
    """Findings a task: what the records say that they cannot carry, and the count of rows against the ledger."""
    found = [_limits(material, task) for task in material.cards]
    return [*found, *(_rows(material, task) for task in material.cards), _questions(material)]


def _limits(material: Material, task: str) -> Finding:
    card, meta = material.cards[task], material.records.meta
    limits = [
        str(limit.reason)
        for limit in getattr(meta, "limits", ())
        if limit.task in (task, card.rule_name, card.based_on)
    ]
    marks = material.extra.get("unsupported", {})
    if task in marks:
        limits += [str(mark) for mark in (marks[task] if isinstance(marks[task], list) else [marks[task]])]
    limits += [n for n in material.extra.get("notices", []) if f"'{task}'" in n and "unsupported" in n.lower()]
    if limits:
        said = f"The records say that they do not support the task: {'; '.join(dict.fromkeys(limits))}"
        return Finding(GUARD, (10,), task, "warn", said, 0, (), {"limits": list(dict.fromkeys(limits))})
    if card.rule_name == "mortality" and card.horizon_days and meta.vital_status.source in ("ehr", "none"):
        said = (
            f"Deaths are known from '{meta.vital_status.source}' alone, which misses most deaths outside the hospital."
        )
        return Finding(GUARD, (10,), task, "warn", said, 0, (), {"vital_status": meta.vital_status.source})
    said = "The records name no limit that speaks against the task."
    return Finding(GUARD, (10,), task, "pass", said, 0, (), {"real": meta.real, "time_basis": meta.time_basis})


def _rows(material: Material, task: str) -> Finding:
    """The examples against the last line of the ledger: rows that vanished uncounted, or a share that was shifted."""
    card = material.cards[task]
    top = card.classes - 1
    ((rows, outcomes, patients),) = material.sql(f"""
        SELECT count(*), count(*) FILTER (label = {top}), count(DISTINCT patient_id) FROM examples
        WHERE task = {literal(task)}""")
    ledger = [row for row in material.extra.get("ledger", []) if row["task"] == task]
    last = ledger[-1] if ledger else {"rows": 0, "outcomes": 0}
    figures = {"examples": rows, "outcomes": outcomes, "patients": patients, "ledger_rows": last["rows"]}
    figures |= {"ledger_outcomes": last["outcomes"], "share_of_last_class": outcomes / rows if rows else None}
    figures |= _lengths(material, task)
    if (rows, outcomes) != (last["rows"], last["outcomes"]):
        said = (
            f"There are {plural(rows, 'example')} with {outcomes:,} of '{card.options[top]}', and the ledger ends with "
            f"{last['rows']:,} and {last['outcomes']:,}: rows were taken away or added uncounted."
        )
        return Finding(GUARD, (13, 14), task, "fail", said, abs(rows - last["rows"]), (), figures)
    said = (
        f"All {plural(rows, 'example')} of the ledger are there, long notes too, at their natural share of "
        f"'{card.options[top]}' ({percent(outcomes / rows if rows else None)}); nothing is weighted."
    )
    return Finding(GUARD, (13, 14), task, "pass", said, 0, (), figures)


def _lengths(material: Material, task: str) -> dict[str, object]:
    """Words of the sampled notes: the longest, and the share of the last class in each tenth of length."""
    rows = material.tasks[task]
    words = rows.column("note_words")
    known = np.isfinite(words)
    if not known.any():
        return {}
    edges = np.quantile(words[known], np.linspace(0, 1, 11)[1:-1])
    tenth = np.searchsorted(edges, words[known], side="right")
    last = rows.labels[known] == rows.card.classes - 1
    shares = [float(last[tenth == k].mean()) if (tenth == k).any() else None for k in range(10)]
    return {"longest_note_words": int(words[known].max()), "share_of_last_class_by_tenth_of_length": shares}


def _questions(material: Material) -> Finding:
    """Hashes of the questions as they are put, so that a later run can prove that it asked the same."""
    hashes = {task: hashlib.sha256(card.question().encode()).hexdigest() for task, card in material.cards.items()}
    empty = [
        str(name)
        for (name,) in material.sql("""
            SELECT DISTINCT x.example_id FROM examples x JOIN inputs i ON i.input_id = x.note_id
            JOIN notes n ON n.note_id = i.note_id GROUP BY x.example_id
            HAVING max(length(trim(n.text))) = 0 ORDER BY 1""")
    ]
    if empty:
        said = f"{plural(len(empty), 'example')} have a note without text."
        return Finding(GUARD, (14,), None, "warn", said, len(empty), first(empty), {"question_sha256": hashes})
    said = f"The {plural(len(hashes), 'question')} are recorded by hash; a run that asks others can be told."
    return Finding(GUARD, (20,), None, "pass", said, 0, (), {"question_sha256": hashes})
