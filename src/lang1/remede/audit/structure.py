"""The folder as it lies: patients apart, splits that are splits, horizons inside their block, times in order."""

from __future__ import annotations

import itertools
from datetime import timedelta

from lang1.common.errors import ArtefactError
from lang1.remede.audit.effects import share
from lang1.remede.audit.finding import Finding, first, graded, told
from lang1.remede.audit.material import Material
from lang1.remede.benchmark import Benchmark
from lang1.remede.cohort import literal
from lang1.reporting.numbers import percent, plural

GUARD = "structure"
_SIDE = "CASE WHEN split LIKE 'test%' THEN 'test' ELSE split END"


def check(material: Material) -> list[Finding]:
    """One finding for each promise that is broken, or one that all hold; then the order of times in the records."""
    found = [*_promises(material), *_patients(material), *_splits(material), *_windows(material)]
    if not found:
        ((examples, patients),) = material.sql("SELECT count(*), count(DISTINCT patient_id) FROM examples")
        said = (
            f"{plural(examples, 'example')} of {plural(patients, 'patient')}: every patient on one side, every horizon "
            "inside "
            "its block, every window as long as its card says."
        )
        if material.extra.get("policy") == "time-only":
            said = (
                f"{plural(examples, 'example')} of {plural(patients, 'patient')}: every horizon inside its block, "
                "every window as long as its card says."
            )
        found.append(Finding(GUARD, (6, 11, 12, 16), None, "pass", said))
    return [*found, *_orders(material)]


def _promises(material: Material) -> list[Finding]:
    found = []
    try:
        Benchmark.open(material.folder.path)
    except ArtefactError as error:
        found.append(Finding(GUARD, (6,), None, "fail", f"The folder breaks a promise: {error}"))
    if not material.records_same:
        said = (
            f"The records at {material.records.path} are not the ones that the benchmark was built from; build it "
            "again."
        )
        found.append(Finding(GUARD, (20,), None, "fail", said))
    return found


def _patients(material: Material) -> list[Finding]:
    rows = material.sql(f"""
        SELECT patient_id, list(DISTINCT {_SIDE} ORDER BY {_SIDE}) FROM examples
        GROUP BY 1 HAVING count(DISTINCT {_SIDE}) > 1 ORDER BY 1""")
    if not rows:
        return []
    by_design = material.extra.get("policy") == "time-only"
    said = f"{plural(len(rows), 'patient')} have examples in more than one of train, val and test" + (
        ", as the policy time-only allows; figures then hold for patients already known." if by_design else "."
    )
    ids = first([str(patient) for patient, _ in rows])
    return [Finding(GUARD, (6,), None, "warn" if by_design else "fail", said, len(rows), ids)]


def _splits(material: Material) -> list[Finding]:
    found = []
    for task in material.cards:
        splits = {s for (s,) in material.sql(f"SELECT DISTINCT split FROM examples WHERE task = {literal(task)}")}
        if len(splits) == 1:
            said = (
                f"Every example is in the split '{splits.pop()}': there is nothing to learn from or nothing to judge "
                "on."
            )
            found.append(Finding(GUARD, (16,), task, "fail", said))
    return found


def _windows(material: Material) -> list[Finding]:
    """Horizons that are not as long as the card says, or that reach into a later block; times that run backwards."""
    found = []
    for task, card in material.cards.items():
        rules = {
            "prediction_time > horizon_end": "have an outcome window that ends before the question is asked",
            "index_time > prediction_time AND index_time > horizon_end": "have an index after question and horizon",
        }
        if card.horizon_days is not None:
            days = card.horizon_days
            # A measure on dates ends its horizon with a day; both stay within one day of the card's number.
            rules[
                f"abs(date_diff('hour', index_time, horizon_end) - {24 * days}) > 24 "
                f"AND abs(date_diff('hour', prediction_time, horizon_end) - {24 * days}) > 24"
            ] = f"have a horizon of another length than the card's {days} days"
        blocks = list(material.extra.get("blocks", {}).get(task, {}).items())
        if material.calendar:
            for (name, _), (_, (start, _)) in itertools.pairwise(blocks):
                inside = "split IN ('train', 'val', 'test')" if name == "train" else f"split = {literal(name)}"
                rules[f"{inside} AND greatest(prediction_time, horizon_end) >= TIMESTAMP '{start}'"] = (
                    f"of the block '{name}' reach into the block that begins on {start}"
                )
        for rule, words in rules.items():
            ids = material.sql(f"SELECT example_id FROM examples WHERE task = {literal(task)} AND ({rule}) ORDER BY 1")
            if ids:
                said = f"{plural(len(ids), 'example')} {words}."
                found.append(Finding(GUARD, (12,), task, "fail", said, len(ids), first([str(i) for (i,) in ids])))
    return found


def _orders(material: Material) -> list[Finding]:
    """Stays after a death, and one age for stays that are years apart: signs that rows were ordered or filled by id."""
    if not material.timed:
        return []
    limit = material.threshold("impossible_order")
    dead = material.sql("""
        SELECT e.encounter_id FROM encounters e JOIN patients p USING (patient_id)
        WHERE e.admit_time::DATE > p.death_time::DATE + 1 AND e.encounter_class = 'inpatient' ORDER BY 1""")
    ((deaths,),) = material.sql("SELECT count(*) FROM patients WHERE death_time IS NOT NULL")
    aged = material.sql(f"""
        SELECT patient_id, max(age_at_admission) = min(age_at_admission) FROM encounters
        WHERE age_at_admission IS NOT NULL GROUP BY 1
        HAVING max(admit_time) - min(admit_time) > INTERVAL {timedelta(days=731).days} DAY ORDER BY 1""")
    frozen = [str(patient) for patient, same in aged if same]
    findings = []
    for ids, of, words in (
        ([str(i) for (i,) in dead], deaths, "stays begin after the patient's death, beside {0} known deaths"),
        (frozen, len(aged), "of {0} patients with stays over two years apart have the same age at all of them"),
    ):
        if not ids:
            continue
        found = share(min(len(ids), of), of, material.settings.confidence)
        verdict = graded(found.low > limit.value, "fail", "warn")
        said = f"{len(ids):,} {words.format(f'{of:,}')} ({percent(found.value)})."
        findings.append(
            Finding(
                GUARD,
                (11, 12),
                None,
                verdict,
                said,
                len(ids),
                first(ids),
                found.figures("share"),
                told("impossible_order", limit),
            )
        )
    return findings
