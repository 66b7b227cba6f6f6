"""The first day in intensive care as a note, rendered from eICU's tables in fixed words.

An item stands in the note only if it had been entered by the end of the day (the later of its own offset and that of
its entry), whichever unit of the stay it was entered in. Codes, discharge, and what APACHE predicts never do.
"""

from __future__ import annotations

from dataclasses import dataclass

from lang1.records.readers.source import SourceFile
from lang1.records.readers.staging import Staging


@dataclass(frozen=True)
class Section:
    """One section of the note: its title, and SQL over one table for an item's words and the minute of its entry."""

    title: str
    table: str
    columns: tuple[str, ...]
    words: str
    offset: str
    keep: str = "true"


SECTIONS = (
    Section(
        "Admission diagnosis",
        "admissiondx",
        ("admitdxenteredoffset", "admitdxpath"),
        "array_to_string(string_split(admitdxpath, '|')[-2:], ', ')",
        "admitdxenteredoffset",
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
        stage.read(items, files[section.table], ["patientunitstayid", *section.columns])
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
