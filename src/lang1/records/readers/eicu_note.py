"""The first day in intensive care as a note, rendered from eICU's tables in fixed words.

An item stands in the note only if it had been entered by the end of the day (the later of its own offset and that of
its entry), whichever unit of the stay it was entered in. Codes, discharge, and what APACHE predicts never do.
"""

from __future__ import annotations

from dataclasses import dataclass

from lang1.records.readers.source import SourceFile
from lang1.records.readers.staging import Staging

# Day-1 values of the APACHE score; -1 stands for a value that was not measured.
APACHE_VALUES = (
    "intubated", "vent", "dialysis", "eyes", "motor", "verbal", "meds", "urine", "wbc", "temperature",
    "respiratoryrate", "sodium", "heartrate", "meanbp", "ph", "hematocrit", "creatinine", "albumin", "pao2",
    "pco2", "bun", "glucose", "bilirubin", "fio2",
)  # fmt: skip


@dataclass(frozen=True)
class Section:
    """One section of the note: its title, and SQL over one table for an item's words and the minute of its entry."""

    title: str
    table: str
    columns: tuple[str, ...]
    words: str
    offset: str
    keep: str = "true"
    optional: tuple[str, ...] = ()  # further columns, null where the table lacks them


def _value(column: str, words: str, low: float | None = None, high: float | None = None) -> str:
    """SQL of a value in words, marked as laboratories mark those outside of their range; -1 is missing."""
    number = f"nullif(try_cast({column} AS DOUBLE), -1)"
    marks = [f"WHEN {number} < {low} THEN ' (low)'"] if low is not None else []
    marks += [f"WHEN {number} > {high} THEN ' (high)'"] if high is not None else []
    mark = f" || CASE {' '.join(marks)} ELSE '' END" if marks else ""
    # 45.0 is said as 45, 7.29 as it is, 801.014 as 801
    return f"'{words} ' || format('{{:.4g}}', {number}){mark}"


def _said(column: str, words: str) -> str:
    return f"CASE WHEN {column} = '1' THEN '{words}' END"


# What APACHE takes as the worst of the first day, with usual ranges of adults (units as the source has them:
# beats and breaths a minute, mmHg, degrees Celsius, mL of urine in 24 hours, mmol/L, mg/dL, g/dL, 1,000/uL, %).
VALUES = (
    _said("intubated", "intubated"),
    _said("vent", "ventilated"),
    _said("dialysis", "on dialysis"),
    _said("meds", "sedated, so that consciousness could not be scored"),
    _value("eyes", "eyes score"),
    _value("motor", "motor score"),
    _value("verbal", "verbal score"),
    _value("heartrate", "heart rate", 60, 100),
    _value("meanbp", "mean arterial pressure", 70, 105),
    _value("respiratoryrate", "respiratory rate", 12, 20),
    _value("temperature", "temperature", 36, 38),
    _value("urine", "urine", 800, 2500),
    _value("creatinine", "creatinine", 0.6, 1.3),
    _value("bun", "urea nitrogen", 7, 20),
    _value("sodium", "sodium", 135, 145),
    _value("glucose", "glucose", 70, 180),
    _value("albumin", "albumin", 3.5, 5.0),
    _value("bilirubin", "bilirubin", None, 1.2),
    _value("hematocrit", "hematocrit", 36, 50),
    _value("wbc", "white cells", 4, 11),
    _value("ph", "arterial pH", 7.35, 7.45),
    _value("pao2", "PaO2", 75, None),
    _value("pco2", "PaCO2", 35, 45),
    _value("fio2", "inspired oxygen"),
)
APACHE_HOURS = 24  # the span that those values are the worst of

SECTIONS = (
    Section(
        "Admission diagnosis",
        "admissiondx",
        ("admitdxenteredoffset", "admitdxpath"),
        "array_to_string(string_split(admitdxpath, '|')[-2:], ', ')",
        "admitdxenteredoffset",
    ),
    Section(
        "Worst values of the first day",
        "apacheapsvar",
        (),
        f"concat_ws('; ', {', '.join(VALUES)})",
        f"{APACHE_HOURS * 60}",
        optional=APACHE_VALUES,
    ),
    Section(
        "Past history",
        "pasthistory",
        ("pasthistoryoffset", "pasthistoryenteredoffset", "pasthistorypath", "pasthistoryvalue"),
        "CASE WHEN split_part(pasthistorypath, '/', -2) = pasthistoryvalue THEN pasthistoryvalue "
        "ELSE split_part(pasthistorypath, '/', -2) || ': ' || pasthistoryvalue END",
        "greatest(pasthistoryoffset::BIGINT, pasthistoryenteredoffset::BIGINT)",
        "NOT contains(pasthistorypath, 'Obtain Options') OR pasthistoryvalue = 'No Health Problems'",
    ),
    Section(
        "Medicines at home",
        "admissiondrug",
        ("drugoffset", "drugenteredoffset", "drugname"),
        "lower(drugname)",
        "greatest(drugoffset::BIGINT, drugenteredoffset::BIGINT)",
    ),
    Section(
        "Allergies",
        "allergy",
        ("allergyoffset", "allergyenteredoffset", "allergyname"),
        "lower(allergyname)",
        "greatest(allergyoffset::BIGINT, allergyenteredoffset::BIGINT)",
    ),
    Section(
        "Problems",
        "diagnosis",
        ("diagnosisoffset", "diagnosisstring"),
        "replace(diagnosisstring, '|', ', ')",
        "diagnosisoffset",
    ),
    Section(
        "Examination",
        "physicalexam",
        ("physicalexamoffset", "physicalexampath", "physicalexamvalue", "physicalexamtext"),
        # Measurements have their number in the text and their name in the value.
        "CASE WHEN try_cast(physicalexamtext AS DOUBLE) IS NOT NULL AND physicalexamtext <> physicalexamvalue "
        "THEN CASE WHEN starts_with(physicalexamvalue, regexp_extract(physicalexampath, '([^ /]+)[^/]*/[^/]*$', 1)) "
        "THEN '' ELSE split_part(physicalexampath, '/', -2) || ' ' END || physicalexamvalue || ' ' || physicalexamtext "
        "ELSE split_part(physicalexampath, '/', -2) || ': ' || physicalexamvalue END",
        "physicalexamoffset",
        "NOT contains(physicalexampath, 'Obtain Options')",
    ),
    Section(
        "Treatments",
        "treatment",
        ("treatmentoffset", "treatmentstring"),
        "replace(treatmentstring, '|', ', ')",
        "treatmentoffset",
    ),
    Section(
        "Medicines ordered",
        "medication",
        ("drugorderoffset", "drugname", "drugordercancelled"),
        "lower(drugname)",
        "drugorderoffset",
        "coalesce(drugordercancelled <> 'Yes', true)",
    ),
    Section(
        "Plan of care",
        "careplangeneral",
        ("cplitemoffset", "cplgroup", "cplitemvalue"),
        "cplgroup || ': ' || cplitemvalue",
        "cplitemoffset",
        "cplgroup NOT IN ('Prognosis', 'Care Limitation')",
    ),
)
NOTE_TABLES = tuple(section.table for section in SECTIONS if section.table != "diagnosis")
PROGNOSIS = Section(
    "Prognosis and limits of care",
    "careplangeneral",
    ("cplitemoffset", "cplgroup", "cplitemvalue"),
    "cplgroup || ': ' || cplitemvalue",
    "cplitemoffset",
    "cplgroup IN ('Prognosis', 'Care Limitation')",
)


def create_notes(
    stage: Staging, files: dict[str, list[SourceFile]], hours: int, prognosis: bool, most_items: int
) -> None:
    """Fill ``notes`` with one note a hospital stay, available ``hours`` after its first admission to a unit.

    Needs the relation ``units``. A section without an entry is left out of the note.
    """
    stage.connection.execute("CREATE TABLE note_items (stay VARCHAR, section INTEGER, minute BIGINT, words VARCHAR)")
    sections = [*SECTIONS, PROGNOSIS] if prognosis else list(SECTIONS)
    counted = stage.draft.counts.setdefault("note_items", {})
    for number, section in enumerate(sections):
        if not files[section.table]:
            continue
        items = f"items_{number}"
        stage.read(items, files[section.table], ["patientunitstayid", *section.columns], section.optional)
        stage.connection.execute(f"""
            CREATE TEMP TABLE placed AS
            SELECT u.patienthealthsystemstayid AS stay, u.unit_start + try_cast(({section.offset}) AS BIGINT) AS minute,
                f.unit_start + {hours * 60} AS closes, trim({section.words}) AS words
            FROM {items} i JOIN units u USING (patientunitstayid)
            JOIN units f ON f.patienthealthsystemstayid = u.patienthealthsystemstayid AND f.nth = 1
            WHERE {section.keep}""")
        counted[section.title] = dict(
            zip(
                ("in the notes", "entered later", "without words or time"),
                stage.ask(
                    "SELECT count(*) FILTER (minute <= closes AND words <> ''), count(*) FILTER (minute > closes), "
                    "count(*) FILTER (minute IS NULL OR coalesce(words, '') = '') FROM placed"
                )[0],
                strict=True,
            )
        )
        # The same words are said once, when they were first said.
        stage.connection.execute(f"""
            INSERT INTO note_items
            SELECT stay, {number}, min(minute) AS first, words FROM placed WHERE minute <= closes AND words <> ''
            GROUP BY stay, words QUALIFY row_number() OVER (PARTITION BY stay ORDER BY first, words) <= {most_items};
            DROP TABLE placed; DROP TABLE {items}""")
    titles = ", ".join(f"({number}, '{section.title}')" for number, section in enumerate(sections))
    head = """concat_ws(' ', CASE WHEN f.age LIKE '>%' THEN 'Patient over 89 years old.'
            WHEN f.years IS NOT NULL THEN 'Patient of ' || f.years::INTEGER || ' years.' END,
        CASE WHEN f.gender IN ('Male', 'Female') THEN 'Sex: ' || lower(f.gender) || '.' END,
        'Unit: ' || f.unittype || '.', 'Came to the hospital from: ' || lower(f.hospitaladmitsource) || '.',
        'Came to the unit from: ' || lower(f.unitadmitsource) || '.',
        'Reason: ' || f.apacheadmissiondx || '.')"""
    stage.put(
        "notes",
        f"""
        WITH sections AS (
            SELECT stay, section, title || ': ' || string_agg(words, '; ' ORDER BY minute, words) || '.' AS line
            FROM note_items JOIN (VALUES {titles}) t(section, title) USING (section) GROUP BY stay, section, title
        ),
        bodies AS (SELECT stay, string_agg(line, chr(10) ORDER BY section) AS body FROM sections GROUP BY stay)
        SELECT f.patienthealthsystemstayid || '-day-1' AS note_id, f.uniquepid AS patient_id,
            f.patienthealthsystemstayid AS encounter_id, 'history_and_physical' AS note_type, f.unittype AS department,
            f.admitted + to_minutes(f.unit_start + {hours * 60}) AS created_time,
            f.admitted + to_minutes(f.unit_start + {hours * 60}) AS signed_time,
            f.admitted + to_minutes(f.unit_start + {hours * 60}) AS available_time,
            concat_ws(chr(10), {head}, b.body) AS text, f._file, f._row
        FROM units f LEFT JOIN bodies b ON b.stay = f.patienthealthsystemstayid WHERE f.nth = 1""",
    )
    stage.connection.execute("DROP TABLE note_items")
