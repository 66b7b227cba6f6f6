"""Splits: time blocks, folds of patients, and stated samples. None of them looks at an outcome."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import duckdb
import pyarrow as pa

from lang1.common.errors import InputError, SettingsError
from lang1.common.identity import patient_hash, unit_hash
from lang1.remede.card import Card
from lang1.remede.cohort import Facts, Rule, literal, rows
from lang1.remede.settings import HELD_OUT_SITE, Blocks, BuildSettings, Fractions
from lang1.remede.timeline import Timeline


def held_out_sites(facts: Facts, settings: BuildSettings) -> tuple[str, ...]:
    """The facilities that are held out, sorted: those named, or a share of them by a salted hash of their name.

    Raises:
        SettingsError: a name that no encounter has, or all facilities.
        InputError: the hash takes none of them.
    """
    share = settings.held_out_site_fraction
    if not settings.held_out_sites and share is None:
        return ()
    asked = "SELECT DISTINCT facility FROM encounters WHERE facility IS NOT NULL ORDER BY 1"
    known = [name for (name,) in rows(facts.connection, asked)]
    for name in settings.held_out_sites:
        if name not in known:
            listed = ", ".join(known) or "none, the column is empty"
            raise SettingsError(
                f"held_out_sites: no encounter of {facts.records.path} is at '{name}' (there: {listed})."
            )
    found = settings.held_out_sites
    if share is not None:
        found = tuple(name for name in known if unit_hash(name, f"{settings.salt}/site") < share)
        if not found:
            raise InputError(
                f"{facts.records.path}: a share of {share:g} takes none of its {len(known)} facilities by hash; "
                "set a larger held_out_site_fraction, another salt, or name them in held_out_sites."
            )
    if len(set(found)) == len(known):
        raise SettingsError(
            f"{facts.records.path}: all {len(known)} facilities are held out, so none is left to train."
        )
    return tuple(sorted(set(found)))


def create_folds(connection: duckdb.DuckDBPyConnection, settings: BuildSettings, sites: Sequence[str] = ()) -> None:
    """Create ``folds(patient_id, subject_id, fold, draw)`` for all patients.

    The fold follows from a hash of the patient's id and the salt alone, so it survives a new extract; only patients
    with an encounter of any kind at one of the held-out ``sites`` get the fold of those sites instead. ``draw`` orders
    patients for samples, by a hash of its own.
    """
    ids = [row[0] for row in rows(connection, "SELECT patient_id FROM patients ORDER BY patient_id")]
    fractions = settings.fractions_of(None)
    apart = settings.policy != "time-only"
    table = pa.table(
        {
            "patient_id": pa.array(ids, pa.string()),
            "subject_id": pa.array((patient_hash(i) for i in ids), pa.int64()),
            # Time-only: see hold_out_sampled_patients.
            "fold": pa.array(
                (fractions.fold(unit_hash(i, settings.salt)) if apart else "train" for i in ids), pa.string()
            ),
            "draw": pa.array((unit_hash(i, f"{settings.salt}/sample") for i in ids), pa.float64()),
        }
    )
    connection.register("folds_table", table)
    connection.execute("CREATE OR REPLACE TEMP TABLE folds AS SELECT * FROM folds_table")
    connection.unregister("folds_table")
    if sites:
        listed = ", ".join(literal(name) for name in sites)
        connection.execute(
            f"UPDATE folds SET fold = '{HELD_OUT_SITE}' "
            f"WHERE patient_id IN (SELECT patient_id FROM encounters WHERE facility IN ({listed}))"
        )


def place(
    connection: duckdb.DuckDBPyConnection,
    card: Card,
    settings: BuildSettings,
    timeline: Timeline | None,
    sites: Sequence[str] = (),
) -> None:
    """Add to ``remaining`` where its rows stand in time, among patients and among sites.

    Columns: ``subject_id, draw, fold``; ``block`` of the calendar, its start, and the start of the next one; ``reach``,
    the latest moment that the row's question or outcome can touch. With years or held-out sites also the encounter's
    ``site, first_year, last_year``, and ``at_held_out_site``.
    """
    blocks = timeline.of(card.task) if timeline is not None else None
    by_year = timeline is not None and timeline.by_year
    fold = "f.fold"
    if settings.policy == "time-only":
        drawn = _encounter_folds(connection, settings.fractions_of(card.task), settings.salt)
        fold = f"CASE WHEN f.fold = '{HELD_OUT_SITE}' THEN f.fold ELSE {drawn} END"
    # Given labels state no horizon of their own.
    outcome = f"coalesce(r.horizon_end, r.end_time + INTERVAL {card.horizon_days or 0} DAY)"
    reach = f"greatest({outcome}, r.prediction_time)"
    columns, join = "", ""
    if by_year or sites:
        listed = ", ".join(literal(name) for name in sites) or "NULL"
        columns = f""", e.facility AS site, e.year_low AS first_year, e.year_high AS last_year,
            coalesce(e.facility IN ({listed}), false) AS at_held_out_site"""
        join = "JOIN encounters e ON e.encounter_id = r.encounter_id"
    if by_year:
        # The true end lies before the year after the range; what follows comes as much later as shifted times say.
        later = f"coalesce({reach} - r.end_time, INTERVAL {card.horizon_days or 0} DAY)"
        reach = f"make_timestamp(e.year_high + 1, 1, 1, 0, 0, 0) + greatest({later}, INTERVAL 0 DAY)"
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE placed AS
        SELECT r.*, f.subject_id, f.draw, {fold} AS fold, {reach} AS reach,
            {_block(blocks, by_year, lambda name: f"'{name}'")} AS block,
            {_block(blocks, by_year, lambda name: _start(blocks, name))}::TIMESTAMP AS block_start,
            {_block(blocks, by_year, lambda name: _next_start(blocks, name))}::TIMESTAMP AS next_block {columns}
        FROM remaining r JOIN folds f USING (patient_id) {join}
    """)
    connection.execute("CREATE OR REPLACE TEMP TABLE remaining AS SELECT * FROM placed")


SPLIT = f"CASE WHEN block = 'train' OR fold = '{HELD_OUT_SITE}' THEN fold ELSE block END"


def rules(settings: BuildSettings, timeline: Timeline | None, sites: Sequence[str] = ()) -> list[Rule]:
    """The rules of sites, blocks, gaps and patients apart."""
    found = []
    if sites:
        found = [
            Rule("its site is known (sites are held out)", "site IS NOT NULL"),
            Rule(
                "patients of held-out sites are kept apart: their stays at other sites are left out",
                f"fold <> '{HELD_OUT_SITE}' OR at_held_out_site",
            ),
        ]
    if timeline is None:
        return found
    if timeline.by_year:
        found += [
            Rule("all years in which the encounter may lie are in one block of the calendar", "block IS NOT NULL"),
            Rule(
                "its horizon ends before the next block starts, whenever in those years it was",
                "next_block IS NULL OR reach <= next_block",
            ),
        ]
    else:
        found += [
            Rule("the encounter ends within a block of the calendar", "block IS NOT NULL"),
            Rule("its horizon ends before the next block starts", "next_block IS NULL OR reach < next_block"),
        ]
    if settings.policy == "patients-apart":
        words = "patients kept apart: temporal tests hold patients of the test fold only"
        found.append(Rule(words, APART))
    elif settings.policy == "time-only":
        # The patient may be pretrained on up to the block's start: what lies between question and start would leak.
        words = "temporal tests ask after their block has started, as pretraining ends there"
        found.append(Rule(words, "block = 'train' OR prediction_time >= block_start"))
    return found


APART = f"block = 'train' OR fold IN ('test', '{HELD_OUT_SITE}')"


def hold_out_sampled_patients(connection: duckdb.DuckDBPyConnection) -> None:
    """Time-only: patients with an example in val or test of the train period leave the train fold.

    The temporal tests of that policy are kept from pretraining by the cut; the same-period ones would not be.
    """
    connection.execute("""
        UPDATE folds SET fold = held.split
        FROM (SELECT patient_id, max(split) AS split FROM examples WHERE split IN ('val', 'test') GROUP BY ALL) held
        WHERE folds.patient_id = held.patient_id
    """)


def sampled(connection: duckdb.DuckDBPyConnection, most: dict[str, int]) -> None:
    """Create ``drawn(split, patient_id)``: the patients whose examples stay, in the order of their draw.

    Patients are taken until a split holds ``most[split]`` stays (encounters, over all tasks), the last patient whole.
    """
    limits = ", ".join(f"('{split}', {number})" for split, number in most.items())
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE drawn AS
        WITH stays AS (
            SELECT split, patient_id, any_value(draw) AS draw, count(DISTINCT encounter_id) AS stays
            FROM examples GROUP BY split, patient_id
        ),
        before AS (
            SELECT split, patient_id,
                sum(stays) OVER (PARTITION BY split ORDER BY draw, patient_id) - stays AS before
            FROM stays
        )
        SELECT split, patient_id FROM before
        LEFT JOIN (VALUES {limits}) l(split, most) USING (split) WHERE most IS NULL OR before < most
    """)


def _encounter_folds(connection: duckdb.DuckDBPyConnection, fractions: Fractions, salt: str) -> str:
    ids = [row[0] for row in rows(connection, "SELECT encounter_id FROM remaining ORDER BY 1")]
    table = pa.table(
        {
            "encounter_id": pa.array(ids, pa.string()),
            "fold": pa.array((fractions.fold(unit_hash(i, salt)) for i in ids), pa.string()),
        }
    )
    connection.register("encounter_folds_table", table)
    connection.execute("CREATE OR REPLACE TEMP TABLE encounter_folds AS SELECT * FROM encounter_folds_table")
    connection.unregister("encounter_folds_table")
    return "(SELECT e.fold FROM encounter_folds e WHERE e.encounter_id = r.encounter_id)"


def _block(blocks: Blocks | None, by_year: bool, says: Callable[[str], str]) -> str:
    """SQL: what ``says`` of the block in which the row lies; without a calendar all rows share one period."""
    if blocks is None:
        return says("train")
    first, last = "r.end_time", "r.end_time"
    if by_year:
        first = "make_timestamp(e.year_low, 1, 1, 0, 0, 0)"
        last = "make_timestamp(e.year_high + 1, 1, 1, 0, 0, 0) - INTERVAL 1 MICROSECOND"
    cases = " ".join(
        f"WHEN {first} >= TIMESTAMP '{block.begins}' AND {last} < TIMESTAMP '{block.closes}' THEN {says(name)}"
        for name, block in blocks.named().items()
    )
    return f"CASE {cases} END"


def _start(blocks: Blocks | None, name: str) -> str:
    return f"TIMESTAMP '{blocks.named()[name].begins}'" if blocks is not None else "NULL"


def _next_start(blocks: Blocks | None, name: str) -> str:
    if blocks is None:
        return "NULL"
    named = list(blocks.named().items())
    later = [block.begins for _, block in named[[n for n, _ in named].index(name) + 1 :]]
    return f"TIMESTAMP '{later[0]}'" if later else "NULL"
