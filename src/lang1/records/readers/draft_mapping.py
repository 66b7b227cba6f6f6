"""A first draft of a mapping file, from the columns that a source's files hold."""

from __future__ import annotations

import re
from pathlib import Path

from lang1.common.errors import InputError
from lang1.records.readers.source import SourceFile, open_source
from lang1.records.rules import ALL_TABLES
from lang1.records.schema import CODED, TABLES

# Names under which sources keep our columns, beside our own; compared without case and punctuation.
_SYNONYMS: dict[str, tuple[str, ...]] = {
    "patient_id": (
        "patient",
        "patientid",
        "subjectid",
        "personid",
        "mrn",
        "patid",
        "patientnbr",
        "medicalrecordnumber",
    ),
    "encounter_id": (
        "encounter",
        "hadmid",
        "visitid",
        "visitoccurrenceid",
        "csn",
        "stayid",
        "admissionid",
        "encounterno",
    ),
    "birth_year": ("yearofbirth", "yob", "anchoryear", "birthyr"),
    "sex": ("gender", "sexatbirth"),
    "race": ("racename",),
    "ethnicity": ("ethnicgroup",),
    "area": ("county", "borough", "zip", "zipcode"),
    "death_time": ("dod", "deathdate", "deathdatetime", "deathtime", "dateofdeath", "deceaseddate"),
    "encounter_class": ("encounterclass", "patientclass", "visittype", "class", "encountertype", "ptclass"),
    "admit_time": (
        "admittime",
        "admitdate",
        "admissiondate",
        "admissiontime",
        "admitdatetime",
        "admitdt",
        "start",
        "starttime",
    ),
    "discharge_time": ("dischtime", "dischargedate", "dischargedatetime", "stop", "endtime", "dischdate", "dischdt"),
    "admission_type": ("admittype", "admissiontype"),
    "admission_source": ("admissionlocation", "admitsource"),
    "department": ("service", "specialty", "unit", "ward", "dept"),
    "facility": ("hospital", "site", "location"),
    "disposition": ("dischargedisposition", "dischargelocation", "dischdisp", "disp"),
    "age_at_admission": ("age", "admissionage", "anchorage"),
    "payer": ("insurance", "payor", "payername", "payercode", "primarypayer"),
    "note_id": ("noteid", "documentid", "rowid", "docid"),
    "parent_note_id": ("parent", "parentid", "amends"),
    "note_type": ("category", "notetype", "documenttype", "type", "doctype"),
    "created_time": ("charttime", "notedatetime", "notedate", "created", "creationtime"),
    "signed_time": ("signtime", "signed", "signeddatetime", "signdate"),
    "available_time": ("storetime", "filedtime", "availabletime", "filetime", "filed"),
    "text": ("notetext", "body", "report", "documenttext", "note"),
    "code": ("icdcode", "icd9code", "icd10code", "diagnosiscode", "icd10", "icd9", "dxcode", "diagnosis"),
    "code_version": ("icdversion", "codesystem", "codetype", "dxversion"),
    "position": ("seqnum", "seq", "sequence", "rank", "dxrank", "priority"),
    "present_on_admission": ("poa", "presentonadmission", "poaflag"),
    "claim_id": ("claim", "claimnumber", "claimno"),
    "coverage_order": ("cob", "coverageorder", "payerorder"),
    "submitted_time": ("submitted", "submitdate", "billdate", "claimdate"),
    "first_remit_time": ("remitdate", "firstremitdate", "remittancedate"),
    "final_time": ("finaldate", "closeddate", "settleddate"),
    "final_status": ("claimstatus", "status", "outcome"),
    "adjustment_codes": ("carc", "denialcodes", "reasoncodes", "adjustmentcodes"),
    "charge": ("charges", "billedamount", "totalcharge"),
    "paid": ("paidamount", "payment"),
}


def init_mapping(sources: list[Path]) -> str:
    """A commented mapping file for these files, from the column names they hold: a first draft to be checked.

    Raises:
        InputError: no source, or one that cannot be read.
    """
    if not sources:
        raise InputError("no source file given; name the CSV or Parquet files that hold the tables.")
    lines = [
        "# How this source becomes records: a draft made from column names. Check every line; see docs/records.md.",
        "system: my_hospital          # a name for the health system",
        "source: ''                   # what was extracted, by whom, when",
        "real: true",
        "time_basis: calendar         # calendar | shifted | ordinal | none",
        "complete_through:            # through when each table is complete, and by which time the extract was cut",
        *(
            f"  {table}: {{through: 2024-12-31, key: {'admit_time' if table == 'encounters' else 'discharge_time'}}}"
            for table in list(TABLES)[1:]
        ),
        "vital_status: {source: ehr, through: 2024-12-31}   # how deaths are known: ehr | registry | both | none",
        "on_bad_rows: refuse          # refuse: stop at the first bad row; leave_out: leave such rows out, counted",
        'null_values: ["", "NULL"]',
        "time_formats: []             # e.g. ['%m/%d/%Y %H:%M', '%m/%d/%Y']; empty: ISO 8601 (2024-01-31 14:05)",
        "tables:",
    ]
    best: dict[str, tuple[float, Path, SourceFile, dict[str, str]]] = {}
    for path in sources:
        source = open_source(path)
        ranked = sorted((_fit(table, path, source), table) for table in TABLES)
        score, table = ranked[-1]
        if table not in best or score > best[table][0]:
            best[table] = (score, path, source, _match(table, source))
    for table in TABLES:
        if table not in best:
            lines += [f"  # {table}: no file looked like it", ""] if table in ("patients", "encounters") else []
            continue
        _, path, source, matched = best[table]
        lines += [f"  {table}:", f"    file: {_yaml(str(path))}", "    columns:"]
        for field in ALL_TABLES[table]:
            need = "required" if not field.nullable else "optional"
            values = CODED.get(table, {}).get(field.name)
            told = f"  # {' | '.join(values)}" if values else ""
            if field.name in matched:
                lines.append(f"      {field.name}: {_yaml(matched[field.name])}{told}")
            elif not field.nullable:
                lines.append(f"      {field.name}: NAME_OF_THE_COLUMN  # {need}; or give it under constants:{told[3:]}")
            else:
                lines.append(f"      # {field.name}:  ({need}){told}")
        left = [c for c in source.columns if c not in matched.values()]
        lines += [f"    # columns not used: {', '.join(left)}"] if left else []
        coded = [c for c in CODED.get(table, {}) if c in matched]
        if coded:
            lines.append("    codes:                   # their value: ours; '*' stands for every other value")
            lines += [f"      {column}: {{}}         # {' | '.join(CODED[table][column])}" for column in coded]
        lines.append("")
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _match(table: str, source: SourceFile) -> dict[str, str]:
    """Our columns to theirs: equal names first, then synonyms; each of theirs is used once."""
    theirs = {_plain(column): column for column in reversed(source.columns)}
    matched: dict[str, str] = {}
    for want_synonym in (False, True):
        for field in ALL_TABLES[table]:
            names = _SYNONYMS.get(field.name, ()) if want_synonym else (_plain(field.name),)
            for candidate in names:
                if field.name not in matched and candidate in theirs and theirs[candidate] not in matched.values():
                    matched[field.name] = theirs[candidate]
    return matched


def _fit(table: str, path: Path, source: SourceFile) -> float:
    """How well a file suits a table: the share of its columns that match, those of this table alone counted twice."""
    matched = _match(table, source)
    own = [c for c in matched if sum(c in schema.names for schema in TABLES.values()) == 1]
    named = 1.0 if _plain(table).rstrip("s") in _plain(path.name) else 0.0
    return (len(matched) + len(own)) / max(1, len(source.columns)) + named


def _yaml(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
