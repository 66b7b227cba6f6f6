"""Copies across splits: notes of different patients that repeat each other, and patients who stand under two ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from lang1.remede.audit.effects import Ints, share
from lang1.remede.audit.finding import Finding, first, graded, told
from lang1.remede.audit.material import Material
from lang1.remede.audit.words import Words
from lang1.reporting.numbers import percent, plural

DUPLICATES, ALIASES = "duplicates", "aliases"
RUN = 5
# A run of words that stands in the notes of more patients than this is template, not content: at least LEAST, at most
# MOST patients, and a thousandth of all between. MOST bounds the pairs that one run can make.
LEAST_PATIENTS, MOST_PATIENTS, TEMPLATE_SHARE = 5, 20, 0.001
# Runs looked at: where notes hold more, those whose hash falls into a fixed share of all hashes stand for the rest.
MOST_RUNS = 30_000_000


@dataclass(frozen=True)
class Pairs:
    """Pairs of notes: rows of the two, rare runs that they share, and the share of the shorter one's rare runs."""

    one: Ints
    two: Ints
    shared: Ints
    contained: np.typing.NDArray[np.float64]


def similar(words: Words, patients: Ints, template_patients: int) -> Pairs:
    """All pairs of notes of different patients that share a rare run of words, exact and linear in the number of runs.

    Args:
        words: the notes.
        patients: the patient of each note, ``[D]``.
        template_patients: runs in the notes of more patients than this are left out.
    """
    hashes, text, _ = words.runs(RUN)
    if len(hashes) > MOST_RUNS:
        kept = hashes < np.uint64(2**64 - 1) // np.uint64(-(-len(hashes) // MOST_RUNS))
        hashes, text = hashes[kept], text[kept]
    # One row a run and note, the notes of a run side by side and ordered by patient.
    order = np.lexsort((text, patients[text], hashes))
    hashes, text = hashes[order], text[order]
    new = np.ones(len(hashes), dtype=bool)
    new[1:] = (hashes[1:] != hashes[:-1]) | (text[1:] != text[:-1])
    hashes, text = hashes[new], text[new]
    who = patients[text]
    run_starts = np.ones(len(hashes), dtype=bool)
    run_starts[1:] = hashes[1:] != hashes[:-1]
    run = np.cumsum(run_starts) - 1
    other = run_starts.copy()
    other[1:] |= who[1:] != who[:-1]
    holders = np.bincount(run, weights=other, minlength=int(run[-1]) + 1 if len(run) else 0)
    rare = holders[run] <= template_patients
    sizes = np.bincount(text[rare], minlength=len(words.ends))
    paired = rare & (holders[run] >= 2)
    text, who, run = text[paired], who[paired], run[paired]
    ones, twos = [], []
    # Every note with its next, second next, … in the same run; a run with k notes is done after k - 1 steps. Notes of
    # one patient make long runs only where the patient has many; those beyond twice the bound of patients are passed.
    for step in range(1, 2 * template_patients):
        if step >= len(run):
            break
        together = (run[step:] == run[:-step]) & (who[step:] != who[:-step])
        if not (run[step:] == run[:-step]).any():
            break
        ones.append(np.minimum(text[:-step], text[step:])[together])
        twos.append(np.maximum(text[:-step], text[step:])[together])
    if not ones:
        none = np.empty(0, dtype=np.int64)
        return Pairs(none, none, none, np.empty(0))
    key = np.concatenate(ones) * len(words.ends) + np.concatenate(twos)
    key, shared = np.unique(key, return_counts=True)
    one, two = key // len(words.ends), key % len(words.ends)
    shorter = np.minimum(sizes[one], sizes[two])
    return Pairs(one, two, shared, shared / np.maximum(shorter, 1))


def check(material: Material) -> list[Finding]:
    """Copied notes across train and held-out rows, then patients under two ids."""
    notes = material.sql("""
        SELECT i.note_id, min(x.patient_id), min(x.subject_id), bool_or(x.split = 'train'), bool_or(x.split <> 'train'),
            min(x.example_id)
        FROM examples x JOIN inputs i ON i.input_id = x.note_id GROUP BY 1 ORDER BY 1""")
    total = len(notes)
    notes = _affordable(material, notes)
    place = {note: row for row, (note, *_) in enumerate(notes)}
    words = Words.of(_texts(material, list(place)))
    subjects = np.array([row[2] for row in notes], dtype=np.int64)
    train, held = (np.array([row[k] for row in notes], dtype=bool) for k in (3, 4))
    people = len(np.unique(subjects))
    bound = int(min(MOST_PATIENTS, max(LEAST_PATIENTS, TEMPLATE_SHARE * people)))
    pairs = similar(words, subjects, bound)
    contained, least = material.threshold("copied_containment"), material.threshold("copied_runs")
    copied = (pairs.contained >= contained.value) & (pairs.shared >= least.value)
    across = copied & ((train[pairs.one] & held[pairs.two]) | (held[pairs.one] & train[pairs.two]))
    one, two = pairs.one[across], pairs.two[across]
    held_notes = np.unique(np.concatenate([one[held[one]], two[held[two]]])) if len(one) else one
    limit = material.threshold("copied_share")
    of = share(len(held_notes), int(held.sum()), material.settings.confidence)
    figures = of.figures("share") | {
        "notes_compared": len(notes),
        "notes_in_all": total,
        "pairs": len(one),
        "pairs_within_a_side": int(copied.sum()) - len(one),
        "template_if_in_patients": bound + 1,
        "least_containment": contained.value,
    }
    sample = f" (of {total:,}, sampled)" if len(notes) < total else ""
    ids = first([f"{notes[a][5]} = {notes[b][5]}" for a, b in zip(one, two, strict=True)])
    if len(held_notes):
        verdict = graded(of.low > limit.value, "fail", "warn")
        said = (
            f"{plural(len(held_notes), 'held-out note')} ({percent(of.value)}) repeat the text of a training patient's "
            "note."
        )
    else:
        verdict = "pass"
        said = (
            f"No held-out note repeats another patient's training note; {plural(len(notes), 'note')}{sample} were "
            "compared beyond their templates."
        )
    findings = [
        Finding(DUPLICATES, (6,), None, verdict, said, len(held_notes), ids, figures, told("copied_share", limit))
    ]
    text_pairs = {
        tuple(sorted((notes[a][1], notes[b][1]))) for a, b in zip(pairs.one[copied], pairs.two[copied], strict=True)
    }
    return [*findings, _aliases(material, sorted(text_pairs))]


def _affordable(material: Material, notes: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """All notes, or whole patients by the order of their hash until the bounds of the settings are reached."""
    settings = material.settings
    ((letters,),) = material.sql("""
        SELECT coalesce(avg(length(text)), 1) FROM notes
        WHERE note_id IN (SELECT DISTINCT note_id FROM inputs ORDER BY md5(note_id) LIMIT 2000)""")
    most = int(min(settings.most_notes, 3 * settings.most_characters / max(float(letters), 1)))
    if len(notes) <= most:
        return notes
    # Held-out notes first: a copy needs one of them, and there are fewer.
    ordered = sorted(notes, key=lambda row: (not row[4], row[2] * 0x9E3779B97F4A7C15 % 2**64, row[0]))
    half = sorted(ordered[: most // 2], key=lambda row: row[0])
    train = [row for row in ordered[most // 2 :] if row[3]][: most - len(half)]
    return sorted([*half, *train], key=lambda row: row[0])


def _texts(material: Material, notes: list[str]) -> list[str]:
    material.connection.register("wanted", pa.table({"note_id": pa.array(notes, pa.string())}))
    found = dict(material.sql("SELECT note_id, text FROM notes SEMI JOIN wanted USING (note_id)"))
    material.connection.unregister("wanted")
    return [found.get(note, "") for note in notes]


def _aliases(material: Material, text_pairs: list[tuple[str, ...]]) -> Finding:
    """Patients of one sex and year of birth whose stays have the same times, or whose notes repeat each other."""
    table = pa.table({"one": [p[0] for p in text_pairs], "two": [p[1] for p in text_pairs]}, schema=_PAIR)
    material.connection.register("alike", table)
    # The same days of admission and discharge are chance in a large hospital; the same minutes, or two such stays, not.
    found = material.sql("""
        WITH stays AS (
            SELECT e.patient_id, e.admit_time, e.discharge_time, p.sex, p.birth_year,
                e.admit_time = date_trunc('day', e.admit_time) OR e.discharge_time = date_trunc('day', e.discharge_time)
                    AS by_day
            FROM encounters e JOIN patients p USING (patient_id)
            WHERE e.encounter_class = 'inpatient' AND e.discharge_time IS NOT NULL AND e.admit_time IS NOT NULL
        ),
        shared AS (
            SELECT list(DISTINCT patient_id) AS people, bool_and(by_day) AS by_day FROM stays
            WHERE sex IS NOT NULL AND birth_year IS NOT NULL
            GROUP BY admit_time, discharge_time, sex, birth_year HAVING count(DISTINCT patient_id) > 1
        ),
        same AS (
            SELECT one, two FROM (
                SELECT one, unnest(people) AS two, by_day
                FROM (SELECT unnest(people) AS one, people, by_day FROM shared))
            WHERE one < two GROUP BY ALL HAVING count(*) >= CASE WHEN bool_and(by_day) THEN 2 ELSE 1 END
        ),
        alike_people AS (
            SELECT one, two FROM alike JOIN patients a ON a.patient_id = one JOIN patients b ON b.patient_id = two
            WHERE a.sex IS NOT DISTINCT FROM b.sex AND a.birth_year IS NOT DISTINCT FROM b.birth_year
        )
        SELECT one, two FROM (SELECT * FROM same UNION SELECT * FROM alike_people) JOIN folds f ON f.patient_id = one
        JOIN folds g ON g.patient_id = two WHERE (f.fold = 'train') <> (g.fold = 'train') ORDER BY ALL""")
    ((held,),) = material.sql(
        "SELECT count(*) FROM folds WHERE fold <> 'train' AND patient_id IN (SELECT patient_id FROM examples)"
    )
    material.connection.unregister("alike")
    limit = material.threshold("alias_share")
    of = share(min(len(found), held), held, material.settings.confidence)
    ids = first([f"{one} = {two}" for one, two in found])
    figures = of.figures("share") | {"pairs": len(found), "held_out_patients": held}
    if found:
        verdict = graded(of.low > limit.value, "fail", "warn")
        said = (
            f"{plural(len(found), 'held-out patient')} look like a training patient under another id (same sex and "
            "year of birth, and the same stay or text)."
        )
    else:
        verdict, said = "pass", "No held-out patient looks like a training patient under another id."
    return Finding(ALIASES, (6,), None, verdict, said, len(found), ids, figures, told("alias_share", limit))


_PAIR = pa.schema({"one": pa.string(), "two": pa.string()})
