"""X12 claims (837) and remittances (835), joined to the encounters of a records folder (``docs/readers/x12.md``).

The result is a new records folder: the tables of the old one, and its claims. Files are streamed segment by segment;
what is kept of them goes into a database that spills to disk.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, time
from pathlib import Path
from typing import Any, Literal, Self

import duckdb
import pyarrow as pa
from pydantic import Field, field_validator, model_validator

from lang1.common.artefact import InputRef, file_sha256
from lang1.common.errors import InputError
from lang1.common.progress import say
from lang1.common.settings import Settings
from lang1.records.readers.staging import MEMORY, THREADS, Staging
from lang1.records.readers.x12_adjudication import IN_PROCESS, STATUSES, DenialReasons, adjudicate, load_reasons
from lang1.records.readers.x12_files import Reader, x12_files
from lang1.records.readers.x12_joining import CROSSWALK, MEDICAL_RECORD, join
from lang1.records.rules import ALL_TABLES, rules
from lang1.records.store import CompleteThrough, Records, RecordsMeta, new_records, part_files, quoted

UNJOINED = "unjoined_claims.csv"


class X12Settings(Settings):
    """Settings of :func:`ingest_x12`.

    Attributes:
        records: the folder whose encounters the claims are about.
        key: what names the encounter: ``CLM01`` (patient control number, CLP01 in an 835), ``REF*XX`` (a reference of
            the claim by its qualifier), ``REF*EA`` (the medical record number, which is the records' patient id, with
            the dates of admission or statement), or ``crosswalk``.
        key_pattern: a regular expression whose first group is the id in the key; null: all of it.
        crosswalk: CSV or Parquet with the columns ``claim`` (CLM01) and ``encounter``.
        date_tolerance_days: under ``REF*EA``, most days between the claim's and the encounter's day of admission.
        feed_end: the last day through which remittances are complete; null: the day of the latest one.
        appeal_days: how long after the last remittance a denial may still be overturned; it is upheld when they lie
            inside the feed. 120: Medicare's time for the first appeal (42 CFR 405.942).
        professional: whether claims of clinicians (837P) count for inpatient stays: ``auto`` only where the files hold
            no institutional claim at all, since the unit is the hospital's bill.
        count_forwarded: take a zero payment with status 19 (processed as primary, forwarded) as a decision.
        denial_reasons: a YAML file in place of the shipped ``cards/denial_reasons.yaml``.
        wrong_segment_count: what to do with a transaction set whose trailer counts other segments than there are.
        existing_claims: keep the claims that the records hold already, or put these in their place.
    """

    records: Path
    key: str = "CLM01"
    key_pattern: str | None = None
    crosswalk: Path | None = None
    date_tolerance_days: int = Field(default=1, ge=0)
    feed_end: date | None = None
    appeal_days: int = Field(default=120, ge=0)
    professional: Literal["auto", "never", "always"] = "auto"
    count_forwarded: bool = False
    denial_reasons: Path | None = None
    wrong_segment_count: Literal["keep", "leave_out"] = "keep"
    existing_claims: Literal["keep", "replace"] = "keep"

    @field_validator("key_pattern")
    @classmethod
    def _has_group(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            try:
                groups = re.compile(pattern).groups
            except re.error as error:
                raise ValueError(f"not a regular expression ({error})") from error
            if not groups:
                raise ValueError("needs a group in parentheses, such as ^([0-9]+)-")
        return pattern

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.key not in ("CLM01", CROSSWALK) and not re.fullmatch(r"REF\*[A-Z0-9]{1,3}", self.key):
            raise ValueError(f"key is '{self.key}': expected CLM01, REF*EA, another REF*qualifier, or {CROSSWALK}")
        if (self.key == CROSSWALK) != (self.crosswalk is not None):
            raise ValueError(f"crosswalk=FILE goes with key={CROSSWALK}")
        return self


def ingest_x12(source: Path, out: Path, settings: X12Settings, *, overwrite: bool = False) -> Path:
    """Write a records folder: that of ``settings.records``, with the claims of X12 files.

    Args:
        source: a file, a folder (all files below it) or a glob; ``.gz`` and ``.zst`` are unpacked.

    Returns:
        ``out``. Claims that join to no encounter are listed in its ``unjoined_claims.csv``.

    Raises:
        InputError: no 837 or 835 in the files, or a crosswalk that cannot be used.
        SettingsError: denial reasons that cannot be read.
        ArtefactError: records that cannot be opened, or ``out`` exists already.
    """
    reasons = load_reasons(settings.denial_reasons)
    base = Records.open(settings.records)
    if settings.key == MEDICAL_RECORD and base.time_basis != "calendar":
        raise InputError(
            f"{settings.records}: time_basis is {base.time_basis}, so claims cannot be joined by dates; "
            f"set key=CLM01 or key={CROSSWALK}."
        )
    files = x12_files(source)
    inputs: dict[str, Any] = {"records": base.folder}
    for name, path in files.items():
        inputs[f"x12/{name}"] = InputRef(path=str(path), kind="file", fingerprint=file_sha256(path))
    with new_records(out, base.meta, settings=settings, inputs=inputs, overwrite=overwrite) as draft:
        with _database(draft.path) as connection:
            stage = Staging(connection, draft, base.meta)
            reader = Reader(stage, settings.key, keep_wrong_counts=settings.wrong_segment_count == "keep")
            reader.read(files)
            feed_end = _feed(stage, settings)
            adjudicate(stage, reasons, feed_end, settings.appeal_days, count_forwarded=settings.count_forwarded)
            _base_views(connection, base)
            join(
                stage,
                settings.key,
                key_pattern=settings.key_pattern,
                crosswalk=settings.crosswalk,
                tolerance_days=settings.date_tolerance_days,
            )
            _bill(stage)
            _put_claims(stage, base, settings)
            draft.meta = _meta(base, settings, stage, feed_end)
            draft.extra.update(
                {k: v for k, v in base.folder.manifest.extra.items() if k not in RecordsMeta.model_fields}
                | {"left_out_examples": dict(sorted(stage.examples.items()))}
            )
            _tell(stage, reader, settings, reasons, feed_end)
            stage.draft.write_stream(
                "claims",
                pa.RecordBatchReader.from_stream(
                    connection.sql(f"SELECT {', '.join(ALL_TABLES['claims'].names)} FROM claims ORDER BY claim_id")
                ),
            )
        for table in ALL_TABLES:
            for part in part_files(base.path, table) if table != "claims" else ():
                (draft.path / table).mkdir(exist_ok=True)
                shutil.copyfile(part, draft.path / table / part.name)
    return out


@contextmanager
def _database(folder: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    place = folder / ".staging"
    place.mkdir()
    config: dict[str, str | bool | int | float | list[str]] = {"memory_limit": MEMORY, "threads": THREADS}
    with duckdb.connect(":memory:", config=config | {"temp_directory": str(place / "spill")}) as connection:
        yield connection
    shutil.rmtree(place)


def _feed(stage: Staging, settings: X12Settings) -> date | None:
    """Set aside what is no claim for payment and no answer in the feed; returns the last day of the feed."""
    aside: list[tuple[str, str, str]] = [
        ("submissions", "form = 'dental'", "837: dental claim"),
        ("submissions", "purpose = 'RP'", "837: an encounter reported, no claim for payment (BHT06 RP)"),
        ("remits", f"status NOT IN ({_listed(STATUSES + IN_PROCESS)})", "835: claim status (CLP02) unknown"),
        ("remits", "remit_date IS NULL", "835: claim without a date (DTM*405, BPR16, GS04)"),
    ]
    if settings.feed_end:
        aside.append(("remits", f"remit_date > '{settings.feed_end}'::DATE", "835: claim dated after feed_end"))
    for relation, where, reason in aside:
        _set_aside(stage, relation, where, reason)
    _one_form(stage)
    if settings.feed_end:
        return settings.feed_end
    ((latest,),) = stage.ask("SELECT max(remit_date) FROM remits")
    return latest if isinstance(latest, date) else None


def _one_form(stage: Staging) -> None:
    """Where one id stands for the hospital's claim and for clinicians' claims, only the hospital's remains.

    Hospitals put the account's number on both. Remittances are told apart by the charge that they repeat.
    """
    stage.connection.execute("""
        CREATE TABLE both_forms AS
        SELECT claim, list(charge) FILTER (form = 'institutional') AS charges,
            list(charge) FILTER (form = 'professional') AS other_charges
        FROM submissions GROUP BY claim
        HAVING bool_or(form = 'institutional') AND bool_or(form = 'professional')
    """)
    charged = "list_contains(b.{}, abs(remits.charge))"
    for relation, of_clinicians in (
        ("submissions", "form = 'professional' AND claim IN (SELECT claim FROM both_forms)"),
        (
            "remits",
            f"EXISTS (SELECT 1 FROM both_forms b WHERE b.claim = remits.claim AND {charged.format('other_charges')} "
            f"AND NOT {charged.format('charges')})",
        ),
    ):
        kind = "837" if relation == "submissions" else "835"
        _set_aside(stage, relation, of_clinicians, f"{kind}: professional claim with the id of an institutional one")


def _set_aside(stage: Staging, relation: str, where: str, reason: str) -> None:
    """Remove rows, counted, the first named by file and segment."""
    ((rows, file, segment),) = stage.ask(
        f"SELECT count(*), arg_min(_file, (_file, _row)), arg_min(_row, (_file, _row)) FROM {relation} WHERE {where}"
    )
    if rows:
        stage.connection.execute(f"DELETE FROM {relation} WHERE {where}")
        stage.count(reason, rows, f"{file} segment {segment}")


def _base_views(connection: duckdb.DuckDBPyConnection, base: Records) -> None:
    for table in ("patients", "encounters"):
        files = ", ".join(quoted(file) for file in part_files(base.path, table))
        connection.execute(f"CREATE VIEW {table} AS SELECT * FROM read_parquet([{files}])")


def _bill(stage: Staging) -> None:
    """``billed``: outcomes with what is known of the claim and the encounter; those of none are listed and left out."""
    stage.connection.execute("""
        CREATE TABLE billed AS
        WITH sources AS (
            SELECT claim, coverage_order, form, payer, submitted, 0 AS source, _file, _row FROM submitted
            UNION ALL SELECT claim, coverage_order, CASE WHEN inpatient THEN 'institutional' ELSE 'unknown' END, payer,
                NULL, 1, _file, _row FROM answers
        ),
        first_sources AS (
            SELECT claim, coverage_order, arg_min(form, (form = 'unknown', source, _file, _row)) AS form,
                arg_min(payer, (source, _file, _row)) AS payer, min(submitted) AS submitted,
                arg_min(_file, (source, _file, _row)) AS _file, arg_min(_row, (source, _file, _row)) AS _row
            FROM sources GROUP BY claim, coverage_order
        )
        SELECT o.*, s.* EXCLUDE (claim, coverage_order), j.key_value, j.encounter_id, j.reason,
            e.patient_id, e.encounter_class, e.admit_time, e.discharge_time
        FROM outcomes o JOIN first_sources s USING (claim, coverage_order) JOIN joined j USING (claim)
            LEFT JOIN encounters e USING (encounter_id)
    """)
    stage.connection.execute(f"""
        COPY (
            SELECT claim, coverage_order, key_value AS key, reason, _file AS file, _row AS segment
            FROM billed WHERE reason IS NOT NULL ORDER BY claim, coverage_order
        ) TO {quoted(stage.draft.path / UNJOINED)} (HEADER, DELIMITER ',')
    """)
    for reason, rows, file, segment in stage.ask(
        "SELECT reason, count(*), arg_min(_file, (_file, _row)), arg_min(_row, (_file, _row)) FROM billed "
        "WHERE reason IS NOT NULL GROUP BY reason ORDER BY reason"
    ):
        stage.count(f"claims joined to no encounter: {reason}", rows, f"{file} segment {segment}")
    stage.connection.execute("DELETE FROM billed WHERE reason IS NOT NULL")


def _put_claims(stage: Staging, base: Records, settings: X12Settings) -> None:
    """``claims``: those that the records had, and the joined ones; rows that break a rule are counted and left out."""
    if settings.existing_claims == "keep":
        files = ", ".join(quoted(file) for file in part_files(base.path, "claims"))
        stage.put(
            "claims",
            f"SELECT * EXCLUDE (filename, file_row_number), parse_filename(filename) AS _file, "
            f"file_row_number + 1 AS _row FROM read_parquet([{files}], filename=true, file_row_number=true)",
        )
    never = settings.professional == "never"
    institutional = "SELECT 1 FROM submissions WHERE form = 'institutional' UNION SELECT 1 FROM answers WHERE inpatient"
    if never or (settings.professional == "auto" and stage.ask(institutional)):
        _set_aside(
            stage,
            "billed",
            "form = 'professional' AND encounter_class = 'inpatient'",
            "professional claims (837P) of inpatient stays, whose unit is the institutional claim",
        )
    claim_id = "claim || CASE WHEN coverage_order > 1 THEN '/' || coverage_order ELSE '' END"
    if settings.existing_claims == "keep":
        taken = f"{claim_id} IN (SELECT claim_id FROM claims)"
        _set_aside(stage, "billed", taken, "claims of an id that the records hold already (existing_claims: keep)")
    timed = base.time_basis == "calendar"
    times = {
        # Remittances carry a day; on the day of submission they came after it.
        "submitted_time": "submitted",
        "first_remit_time": "CASE WHEN first_remit = submitted::DATE THEN submitted ELSE first_remit::TIMESTAMP END",
        "final_time": "CASE WHEN final_date = submitted::DATE THEN submitted ELSE final_date::TIMESTAMP END",
    }
    listed = ", ".join(f"{sql if timed else 'NULL::TIMESTAMP'} AS {column}" for column, sql in times.items())
    stage.put(
        "claims",
        f"""SELECT {claim_id} AS claim_id,
            encounter_id, patient_id, payer, coverage_order, {listed}, final_status, codes AS adjustment_codes, charge,
            paid, _file, _row FROM billed""",
    )
    for rule in rules(base.time_basis):
        if rule.table != "claims":
            continue
        stage.connection.execute(f"CREATE OR REPLACE TEMP TABLE breaches AS {rule.bad_rows}")
        found = stage.ask("SELECT _file, _row, count(*) OVER () FROM breaches ORDER BY _file, _row LIMIT 1")
        if found:
            file, segment, rows = found[0]
            stage.connection.execute("DELETE FROM claims WHERE (_file, _row) IN (SELECT (_file, _row) FROM breaches)")
            stage.count(f"claims: {rule.reason}", rows, f"{file} segment {segment}")


def _meta(base: Records, settings: X12Settings, stage: Staging, feed_end: date | None) -> RecordsMeta:
    """The base's words, with through when the claims are complete: the end of the remittance feed."""
    complete = dict(base.meta.complete_through)
    before = complete.pop("claims", None)
    keeps = before is not None and settings.existing_claims == "keep" and _claims_before(base) > 0
    if base.time_basis == "calendar" and feed_end is not None:
        end = datetime.combine(feed_end, time(23, 59, 59))
        key = "submitted_time" if stage.rows("submitted") else "first_remit_time"
        through = min(end, before.through) if before is not None and keeps else end
        complete["claims"] = CompleteThrough(through=through, key=key)
    elif before is not None and keeps:
        complete["claims"] = before
    source = f"{base.meta.source}; " if base.meta.source else ""
    return base.meta.model_copy(
        update={"complete_through": complete, "source": f"{source}claims from X12 837 and 835 files"}
    )


def _claims_before(base: Records) -> int:
    """How many claims the records held."""
    return int(base.folder.manifest.counts.get("claims", 0))


def _tell(stage: Staging, reader: Reader, settings: X12Settings, reasons: DenialReasons, feed_end: date | None) -> None:
    """Counts for the manifest, and lines for the person at the terminal."""
    odd = {
        "claims submitted before the stay ended": "submitted < discharge_time",
        "claims first answered before the stay began": "first_remit < admit_time::DATE",
    }
    for reason, where in odd.items() if stage.meta.time_basis == "calendar" else ():
        ((rows, file, segment),) = stage.ask(
            f"SELECT count(*), arg_min(_file, (_file, _row)), arg_min(_row, (_file, _row)) FROM billed WHERE {where}"
        )
        if rows:
            reader.oddities[reason] += rows
            reader.odd_examples[reason] = f"{file} segment {segment}"
    outcomes = stage.ask("SELECT why, count(*) FROM billed WHERE coverage_order = 1 GROUP BY why ORDER BY why")
    unlisted = stage.ask(
        "SELECT code, count(*) FROM (SELECT unnest(codes) AS code FROM billed WHERE why = 'no listed reason') "
        "GROUP BY code ORDER BY count(*) DESC, code LIMIT 50"
    )
    ((joined, unjoined),) = stage.ask(
        "SELECT (SELECT count(*) FROM billed), (SELECT count(*) FROM outcomes o JOIN joined j USING (claim) "
        "WHERE j.reason IS NOT NULL)"
    )
    stage.draft.counts["x12"] = {
        "transaction_sets": dict(sorted(reader.sets.items())),
        "submissions": stage.rows("submissions"),
        "remittances": dict(stage.ask("SELECT status, count(*) FROM remits GROUP BY status ORDER BY status")),
        "joined_claims": joined,
        "unjoined_claims": unjoined,
        "primary_claims": dict(outcomes),
        "codes_of_zero_payments_without_a_listed_reason": dict(unlisted),
        "oddities": dict(sorted(reader.oddities.items())),
    }
    stage.draft.extra["x12"] = {
        "feed_end": str(feed_end) if feed_end else None,
        "appeal_days": settings.appeal_days,
        "reasons_list_date": str(reasons.list_date),
        "oddity_examples": dict(sorted(reader.odd_examples.items())),
    }
    say(f"x12: {joined} claims joined to encounters, {unjoined} to none ({UNJOINED}).")
    if feed_end is None:
        say("x12: no remittance, so nothing is settled; give the 835 files for labels of denial.")
    elif settings.feed_end is None:
        say(f"x12: the feed is taken to end on {feed_end}, the day of its last remittance; else set feed_end.")
    for reason, rows in sorted(reader.oddities.items()):
        say(f"x12: kept, but odd: {reason}: {rows} (first: {reader.odd_examples[reason]})")


def _listed(values: tuple[str, ...]) -> str:
    return ", ".join(quoted(value) for value in values)
