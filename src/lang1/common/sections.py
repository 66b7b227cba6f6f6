"""The sections of a clinical note, found by rules about its headings.

A heading stands at the start of a line: known words before a colon (``Hospital Course: treated …``), any short words
before a colon at the end of the line, or a line in capitals. Known headings get one name for all their spellings, other
headings are ``other``. What stands before the first heading is ``start``.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache

# By name, the spellings as a regular expression over the heading in lower case, tried in order.
HEADINGS: dict[str, str] = {
    "chief_complaint": r"(chief|presenting) (complaint|concern)|cc|reason for (visit|admission)",
    "history_of_present_illness": r"(history of (the )?)?(present|presenting) illness|hpi",
    "past_medical_history": r"(past )?medical history|pmhx?|past history",
    "surgical_history": r"(past )?surgical history|pshx?",
    "family_history": r"family( medical)? history|fhx?",
    "social_history": r"social( history)?|shx?",
    "allergies": r"(drug )?allergies( and adverse reactions)?",
    "review_of_systems": r"review( of systems)?|ros",
    "discharge_physical": r"(discharge|exam(ination)? (at|on) discharge|discharge (physical )?exam(ination)?)",
    "physical_exam": r"(physical )?exam(ination)?|physical|pe|admission (physical )?exam(ination)?",
    "vital_signs": r"vitals?( signs)?",
    "results": r"(pertinent )?results|labs?|laborator(y|ies)( data)?|imaging|studies|micro(biology)?",
    "hospital_course": r"(brief |summary of )?(hospital )?course( by (problem|system))?"
    r"|course (in|of) (the )?hospital(ization)?",
    "discharge_medications": r"(discharge medic(ations?|ines?)|medic(ations?|ines?) (on|at) discharge)( list)?",
    "medications": r"((home|admission|current|outpatient) )?medic(ations?|ines?)( on admission)?|meds",
    "discharge_disposition": r"discharge disposition|disposition (at|on) discharge|discharged to",
    "discharge_condition": r"(discharge condition|condition (at|on) discharge)",
    "discharge_diagnosis": r"(discharge|final|principal|primary|secondary) diagnos[ei]s",
    "discharge_codes": r"(final |discharge |billing )?(diagnosis |diagnostic |icd(-?(9|10))?(-cm)? )+"
    r"codes?( assigned)?",
    "discharge_instructions": r"(discharge |patient )?instructions",
    "discharge_date": r"(date of discharge|discharge date|discharged on)",
    "admission_date": r"(date of admission|admission date|admitted on)",
    "length_of_stay": r"length of stay|los|days in hospital",
    "death": r"(date|time|cause|manner) of death|death (note|summary)|autopsy",
    "follow_up": r"follow[- ]?up( (plan|appointments?|instructions))?|appointments",
    "assessment_and_plan": r"assessment( (and|&|/) plan)?|impression|plan|a ?(/|&) ?p",
    "procedures": r"(major )?(surgical or invasive )?procedures?( performed)?|operations?",
    "utilization_review": r"utili[sz]ation (review|management)|um (note|review)|case management( note)?"
    r"|level of care review",
    "payer_correspondence": r"(payer|insur(er|ance)) (letter|correspondence|decision|response)"
    r"|letter of the (payer|insurer)|denial( letter| reason)?|appeal( letter)?"
    r"|peer[- ]to[- ]peer( review)?|remittance( advice)?",
    "addendum": r"addend(um|a)|late entry|amendment|correction",
}
_KNOWN = [(name, re.compile(pattern)) for name, pattern in HEADINGS.items()]
_HEADING = re.compile(
    r"^[ \t]*(?:(?P<before>[A-Za-z][A-Za-z0-9 &/'()-]{0,48}?)[ \t]*:(?P<alone>[ \t]*$)?"
    r"|(?P<capitals>[A-Z][A-Z &/'()-]{2,48})[ \t.]*$)",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Section:
    """A part of a note.

    Attributes:
        name: of :data:`HEADINGS`, or ``start``, or ``other``.
        heading: as it stands in the note, empty for ``start``.
        start, end: characters of the note, heading included.
        body: where what stands under the heading begins.
    """

    name: str
    heading: str
    start: int
    end: int
    body: int


@lru_cache(maxsize=4096)
def name_of(heading: str) -> str:
    """The name of a heading, ``other`` where it is none of :data:`HEADINGS`."""
    plain = " ".join(heading.lower().strip(" \t:.").split())
    return next((name for name, pattern in _KNOWN if pattern.fullmatch(plain)), "other")


def sections(text: str) -> list[Section]:
    """The sections of a note in order; together they cover all of it. An empty text has none."""
    marks: list[tuple[str, str, int, int]] = [("start", "", 0, 0)]
    for match in _HEADING.finditer(text):
        heading = match["before"] or match["capitals"]
        name = name_of(heading)
        # "Pressure: 120" is no heading of its own; "PLAN" and "Anything short:" at a line's end are.
        if name == "other" and match["before"] and match["alone"] is None:
            continue
        marks.append((name, heading, match.start(), match.end()))
    found = []
    for (name, heading, start, body), end in zip(marks, [m[2] for m in marks[1:]] + [len(text)], strict=True):
        if end > start:
            found.append(Section(name, heading, start, end, body))
    return found


def filled(text: str, names: Collection[str]) -> list[Section]:
    """The sections of some names that have words under their heading."""
    return [s for s in sections(text) if s.name in names and text[s.body : s.end].strip(" \t\n.:-_")]
