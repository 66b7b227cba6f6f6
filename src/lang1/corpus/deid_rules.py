"""Rules that find identifiers by how they are written and what stands before them, without knowing anybody.

Classes follow the Safe Harbor list of 45 CFR 164.514(b)(2)(i), items A to R. Where a rule must choose between
taking out too much and leaving something in, it takes out too much.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from lang1.corpus.deid_words import NOT_NAMES, PLACE_STOPS, STATES

# Class, and the item of the Safe Harbor list that it belongs to.
CLASSES: dict[str, str] = {
    "NAME": "A", "LOCATION": "B", "DATE": "C", "AGE": "C", "PHONE": "D", "FAX": "E", "EMAIL": "F", "SSN": "G",
    "MRN": "H", "HEALTH_PLAN": "I", "ACCOUNT": "J", "LICENSE": "K", "VEHICLE": "L", "DEVICE": "M", "URL": "N",
    "IP": "O", "BIOMETRIC": "P", "PHOTO": "Q", "OTHER": "R",
}  # fmt: skip
OLDEST_AGE_SHOWN = 89  # ages over 89 are identifiers (item C)


class Span(NamedTuple):
    """Characters [start, end) of a text that hold an identifier of a class."""

    start: int
    end: int
    cls: str


_U = "[A-ZÀ-ÖØ-Þ]"
_CAP = rf"(?:{_U}['’])?{_U}[^\W\d_]+(?:['’][^\W\d_]+)?(?:-{_U}[^\W\d_]+)*"
_TOWN = rf"(?!(?:General|Hospital|Medical|Memorial|Community|Regional|University|County|Home|Clinic)\b){_CAP}"
_PARTICLE = r"(?:(?:van|von|de|der|den|la|el|al|bin|di|da|dos|du|st|mac)\.?[ ])"
_PIECE = rf"(?:{_PARTICLE}{{0,2}}{_CAP}|{_U}\.(?!(?:D|O|A|C)\b)|{_U}(?![\w.'’]))\.?"
_RUN = rf"{_PIECE}(?:[ ]{_PIECE}){{0,3}}"
_LISTED = rf"{_PIECE}(?:(?:,[ ]?|[ ]){_PIECE}){{0,3}}"
_TITLE = (
    r"(?:(?:drs?|mr|mrs|ms|prof|rev|sgt)\b\.?|"
    r"(?:doctor|miss|professor|nurse|sister|father|reverend|judge|officer|np|rn|pa)\b)"
)
_CREDENTIAL = (
    r"(?:M\.?D\b|D\.?O\b|R\.?N\b|N\.?P\b|PA-?C\b|P\.A\.|Pharm\.?D\b|Ph\.?D\b|DPM\b|DDS\b|LCSW\b|MSW\b|CRNA\b|APRN\b|"
    r"MBBS\b|FACS\b|FACP\b|LPN\b|CNM\b|DNP\b)"
)
_RELATIVE = (
    r"(?:wife|husband|spouse|partner|fianc[eé]e?|son|daughter|mother|father|mom|dad|brother|sister|twin|niece|nephew|"
    r"aunt|uncle|cousin|grand(?:son|daughter|mother|father|ma|pa)|(?:step|foster)[- ]?\w+|\w+-in-law|friend|neighbou?r|"
    r"caregiver|guardian|roommate|girlfriend|boyfriend|landlord|employer)"
)
_LABEL = (
    r"(?:patient(?:'s)?(?: name)?|pt(?: name)?|name|attending(?: physician)?|pcp|provider|physician|surgeon|resident|"
    r"fellow|author|consultant|anesthesi\w+|referring(?: physician)?|re|cc|attn|attention|to|from|contact|"
    r"emergency contact|next of kin|nok|health care proxy|hcp|proxy|poa|interpreter|witness|signature|signed|"
    r"(?:electronically |digitally )?(?:co-?)?signed(?: by)?|(?:dictated|transcribed|reviewed|seen|verified|entered|"
    r"completed|performed|interpreted|examined|written|prepared|ordered|approved|attested|authenticated|read)[ ]by|"
    r"initials)"
)
_CUE = (
    r"(?:discussed with|d/w|spoke (?:with|to|w/)|seen (?:by|with)|signed(?: by)?|referred (?:by|to)|followed by|"
    r"accompanied by|consult(?:ed)? (?:with|by)|per|contacted|paged|informed|notified|ask(?:ed)?|call(?:ed)?|met with|"
    r"pcp(?: is)?|attending(?: is)?|care of|under|/s/|brought in by|lives with|named|known as|a\.?k\.?a\.?|n[eé]e)"
)
_NAMES: tuple[tuple[re.Pattern[str], bool], ...] = (  # with group n; does it hold elsewhere too?
    (re.compile(rf"\b(?i:{_TITLE})[ ](?P<n>{_RUN}(?:,[ ]{_CAP}(?=,[ ]?{_CREDENTIAL}))?)"), True),
    (re.compile(r"\b(?i:dr|mr|mrs|ms)\b\.?[ ](?P<n>[a-z]{2,}(?:['-][a-z]+)*)"), False),
    (re.compile(rf"(?P<n>{_LISTED}),?[ ]{_CREDENTIAL}"), True),
    (re.compile(rf"\b(?i:{_LABEL})[ ]?[:#=][ ]*(?P<n>{_LISTED})"), True),
    (re.compile(r"(?im)\b(?:patient|pt|name)(?: name)?[ ]?:[ ]*(?P<n>[a-z'-]{2,}[ ][a-z'-]{2,})(?=[ ]*(?:$|\||"
        r"mrn|dob|acct|med rec|d\.o\.b))"), False),
    (re.compile(rf"(?<![\w/])(?i:{_CUE})[ ](?:(?:his|her|the|pt's|patient's)[ ])?(?P<n>{_RUN})"), True),
    (re.compile(rf"\b(?i:{_RELATIVE})(?:[ ]is|[ ]named)?[,:(]?[ ]?\(?(?P<n>{_RUN})"), True),
    (re.compile(rf"(?P<n>{_LISTED})[ ]?[(|,]?[ ]?(?:MRN|DOB|D\.O\.B|MR#|born)\b"), True),
    (re.compile(r"(?im)(?<=re: )(?P<n>[a-z'-]+[ ][a-z'-]+)(?=, born)"), False),
    (re.compile(rf"(?P<n>{_CAP}(?:[ ]{_CAP})?)[ ](?:lives|resides|states|reports|denies|says|complains|endorses|"
        rf"reported|stated|lived)\b"), True),
    (re.compile(rf"\b(?i:initials)(?:[ ]are|[ ]is)?[: ]+(?P<n>(?:{_U}\.?[ ]?){{2,3}})(?!\w)"), False),
)  # fmt: skip

_MON = (
    r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|June?|July?|Aug(?:ust)?|Sept?(?:ember)?|Oct(?:ober)?|"
    r"Nov(?:ember)?|Dec(?:ember)?)"
)
_MONTH = rf"(?P<mon>(?i:{_MON})|May|MAY)\b\.?"
_DAY = r"(?P<d>3[01]|[12]\d|0?[1-9])"
_NUM_MONTH = r"(?P<m>1[0-2]|0?[1-9])"
_WEEKDAY = r"(?:(?P<wd>(?i:mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?i:day)?)\b\.?,?[ ])?"
_YEAR = r"(?P<y>(?:1[89]|20)\d\d)"
_SHORT_YEAR = r"(?P<y>(?:1[89]|20)\d\d|'?\d\d)"
_NO_DOSE = r"(?![ ]?(?:mg|mcg|ml|mL|units?|times|tabs?|tablets?|%|g|L|hours?|hrs?|days?|weeks?)\b)"
# Every way of writing a date, with groups y, m or mon, d, wd, nth; also what :func:`deid_surrogates.shifted` parses by.
DATES: tuple[re.Pattern[str], ...] = tuple(
    re.compile(pattern)
    for pattern in (
        rf"(?<![\w/.-]){_WEEKDAY}{_YEAR}(?P<s>[-/.]){_NUM_MONTH}(?P=s){_DAY}(?![\d/])",
        r"(?<![\w/.-])(?P<y>(?:19|20)\d\d)(?P<m>0[1-9]|1[0-2])(?P<d>0[1-9]|[12]\d|3[01])(?!\w)",
        rf"(?<![\w/.-]){_WEEKDAY}{_NUM_MONTH}(?P<s>[-/.]){_DAY}(?P=s)(?P<y>(?:1[89]|20)\d\d|\d\d)(?![\w/])",
        rf"(?<![\w/.-]){_WEEKDAY}{_DAY}(?P<s>[-/.]){_NUM_MONTH}(?P=s)(?P<y>(?:1[89]|20)\d\d|\d\d)(?![\w/])",
        rf"\b{_WEEKDAY}{_MONTH}[ -]{_DAY}(?P<nth>(?i:st|nd|rd|th))?\b(?!/)(?:,?[ -]{_SHORT_YEAR}\b(?!/))?{_NO_DOSE}",
        rf"(?:\bthe[ ])?(?<![\w/.-]){_WEEKDAY}{_DAY}(?P<nth>(?i:st|nd|rd|th))?(?:[ ]of)?[ -]?{_MONTH}"
        rf"(?:,?[ -]?{_SHORT_YEAR}\b)?",
        rf"\b{_MONTH},?(?:[ ]of)?[ -]?(?P<y>(?:1[89]|20)\d\d|'\d\d)\b",
        rf"(?<![\w/.-]){_NUM_MONTH}[/-](?P<y>(?:19|20)\d\d)(?![\w/])",
    )
)
_MONTH_AND_DAY = re.compile(rf"(?<![\w/.+-]){_NUM_MONTH}/{_DAY}(?![\w/%])(?!\.\d)")
_DAY_CUE = re.compile(
    r"(?i)(?:\b(?:on|since|from|until|till|through|thru|dated?|began|begun|started|stopped|due|by|of|for|seen|checked|"
    r"admitted|discharged|implanted|interrogated|up|consented|signed|born|M\.?D\.?|D\.?O\.?|the|heparin|service|as of|"
    r"visit|last|next|clinic|resumed|scheduled|booked|returned)|[:(])[ ]?$"
)
_RATIO = re.compile(r"(?i)(?:bp|pressure|ratio|ganz|pa|then|strength|reflexes|murmur|pain|motor|pulses)[ :,]+$")
_AFTER_RATIO = re.compile(
    r"(?i)^[ ]?(?:strength|pain|murmur|motor|systolic|tab|cup|bottle|in (?:all|both)|doses?|of\b)"
)
_AGE = re.compile(
    r"(?i)(?:\b(?P<a>9\d|1[0-2]\d)(?=[ -]?(?:y(?:ea?|ae)rs?|yrs?|y\.?[ ]?/?o\b)(?:[ -]?old)?)|"
    r"\b(?:aged?|age of|age:)[: ]+(?P<b>9\d|1[0-2]\d)\b|(?<=patient: )(?P<c>9\d|1[0-2]\d)(?= (?:f|m))|"
    r"\b(?P<e>9\d|1[0-2]\d)(?=[ ]?(?:F|M|female|male|woman|man)\b)|\b(?P<w>ninety(?:[- ]\w+)?|one hundred)(?=[ -]year))"
)
_BORN = re.compile(r"(?i)\b(?:born(?: in)?|dob|yob|birth year)[: ]+(?P<y>1[89]\d\d)\b(?![-/])")

_MORE = r"(?i:[ ]?(?:no\b\.?|num(?:ber)?\b|nr\b\.?|#|id\b|code\b))?(?:[ ](?:is|was))?[ ]?[:#=.]?[ ]{0,2}"
_VALUE = (
    r"(?P<n>(?:[A-Z]{1,4}[- ]?)?\d[A-Z0-9]*(?:[-./][A-Z0-9]+|[ ]\d{2,}(?![/-]))*|(?=[A-Z-]*\d)[A-Z0-9]+(?:-[A-Z0-9]+)*)"
)
_CUED: tuple[tuple[str, str], ...] = (
    ("MRN", r"mrn?|mr ?#|med(?:ical)?\.? rec(?:ord)?|unit (?=n)|chart (?=n|#)|hosp(?:ital)? (?=n|#|id)|"
        r"patient (?=id|#)|pid"),
    ("SSN", r"ssn?|soc(?:ial)?\.? sec(?:urity)?"),
    ("HEALTH_PLAN", r"health plan|member|subscriber|policy|group|medicare|medicaid|mbi|hicn?|insurance|"
        r"beneficiary|plan (?=id|n|#)"),
    ("ACCOUNT", r"acc(?:oun)?t|fin|csn|har|visit (?=n|#|id)|encounter (?=n|#|id)|guarantor|billing|bank|iban|card"),
    ("LICENSE", r"(?:driver'?s? )?licen[sc]e(?! plate)|dea|npi|certificate|passport|state id|d\.?l\.?(?= ?(?:n|"
        r"#))|registration"),
    ("VEHICLE", r"vin|(?:licen[sc]e )?plate|vehicle|tag (?=n|#)"),
    ("DEVICE", r"serial|s/n|sn|device|udi|imei|generator|lot|ref(?= ?(?:n|#))|model (?=n|#)|implant (?=id|n|#)"),
    ("BIOMETRIC", r"finger ?print|retinal?(?: scan)?(?: template)?|iris(?: scan)?|voice ?print|palm ?print|"
        r"biometric|face ?(?:id|template)"),
    ("OTHER", r"accession|specimen|case (?=n|#)|requisition|order (?=n|#|id)|study|trial|protocol|badge|"
        r"employee|student|"
              r"confirmation|claim|auth(?:orization)?|reference|ticket|tracking|rx|prescription|sample (?=n|#|"
        r"id)|id|no\.|number"),
)  # fmt: skip
_CUED_RULES = tuple((cls, re.compile(rf"(?<![\w/])(?i:{cue}){_MORE}{_VALUE}(?![\w])")) for cls, cue in _CUED)
_PLATE = re.compile(r"(?i:plate)(?i: no\.?| number)?[: #]+(?P<n>[A-Z0-9]{2,4}[ -]?[A-Z0-9]{2,5})\b")
_FAX_BEFORE = re.compile(r"(?i)(?:fax|facsimile)\W{0,3}(?:no\.?|number|to|is|at|:|#)?\W{0,3}$")
_PHONE = re.compile(
    r"(?<![\w.])(?:\+?1[-. ]?)?(?:\(\d{3}\)[ ]?|\d{3}[-. ])\d{3}[-. ]?\d{4}(?:,?[ ]*(?:x|ext\.?|"
    r"extension)[ ]*\d{1,6})?(?![\w-])"
    r"|(?<![\w.-])[2-9]\d\d-\d{4}(?![\w-])(?![ ]?(?:mg|mcg|ml|mL|units?|cc|g|kcal|cal|%|steps)\b)"
    r"|(?<![\w.-])\d{10}(?![\w-])"
)
_PAGER = re.compile(r"(?i)\b(?:pager|beeper|pgr|pg|ext\.?|extension)[ ]?[:#]?[ ]?(?P<n>\d{4,10}|x?\d{4,5})\b")
_PLAIN: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("EMAIL", re.compile(r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+")),
    ("URL", re.compile(r"\b(?:https?|ftp)://[^\s<>\"]+[\w/]|\bwww\.[^\s<>\",]+[\w/]")),
    ("URL", re.compile(r"\b(?:[A-Za-z0-9-]+\.)+(?:com|org|net|edu|gov|io|info)\b(?:/[^\s<>\",]*[\w/])?")),
    ("IP", re.compile(r"(?<![\w.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|"
        r"1?\d?\d)(?::\d{2,5})?(?![\w]|\.\d)")),
    ("IP", re.compile(r"(?<![\w:])(?:(?:[0-9A-Fa-f]{1,4}:){4,7}|"
        r"[0-9A-Fa-f]{1,4}::(?:[0-9A-Fa-f]{1,4}:){0,6})[0-9A-Fa-f]{1,4}(?![\w:])")),
    ("SSN", re.compile(r"(?<![\w-])\d{3}-\d{2}-\d{4}(?![\w-])")),
    ("HEALTH_PLAN", re.compile(r"\b[1-9][A-Z][A-Z0-9]\d-?[A-Z][A-Z0-9]\d-?[A-Z]{2}\d\d\b")),
    ("VEHICLE", re.compile(r"\b(?=[A-Z]*\d)(?=\d*[A-Z])[A-HJ-NPR-Z0-9]{17}\b")),
    ("DEVICE", re.compile(r"\(01\)\d{10,20}(?:\(\d\d\)\w+)*")),
    ("PHOTO", re.compile(r"(?i)\b[\w-]+\.(?:jpe?g|png|tiff?|heic|bmp|gif|dcm)\b")),
    ("OTHER", re.compile(r"(?<![\w.,+-])(?:[A-Z]{1,4}-?)?\d{7,}(?![\w%]|[.,]\d)")),
    ("OTHER", re.compile(r"\b[A-Z]{2,4}-?\d{3,}-\d{3,}\b")),
)  # fmt: skip
_STREET_TYPE = (
    r"(?:street|st|avenue|ave?|road|rd|drive|dr|lane|ln|court|ct|boulevard|blvd|place|pl|way|terrace|ter|circle|cir|"
    r"parkway|pkwy|highway|hwy|route|trail|trl|square|sq|loop|alley|turnpike|pike|crescent)"
)
_PLACES: tuple[re.Pattern[str], ...] = (
    re.compile(
        rf"(?P<n>\b\d{{1,6}}[A-Z]?[ ](?:(?i:[nsew]|north|south|east|west|ne|nw|se|"
        rf"sw)\b\.?[ ])?(?:[A-Z0-9][\w'’.-]*[ ]){{1,4}}"
        rf"(?i:{_STREET_TYPE})\b\.?(?:,?[ ]?(?:(?i:apt|apartment|unit|suite|ste|floor|fl|rm|room)\b\.?[ ]?#?|"
        rf"#[ ]?)[A-Z0-9-]+)?)"
    ),
    re.compile(r"(?P<n>(?i:p\.?[ ]?o\.?[ ]?box)[ ]#?\d+)"),
    re.compile(rf"(?P<n>{_TOWN}(?:[ ]{_TOWN}){{0,2}}),?[ ](?:{STATES}),?[ ]\d{{5}}(?:-\d{{4}})?\b"),
    re.compile(r"(?:\b(?:[A-Z]{2}|[A-Z][a-z]+)[ ])(?P<n>\d{5}(?:-\d{4})?)$", re.MULTILINE),
    re.compile(r"(?i:\bzip(?:[ ]?code)?[ :#]+)(?P<n>\d{5}(?:-\d{4})?)\b"),
    re.compile(r"(?<=[A-Z]{2}[ ])(?P<n>\d{5}-\d{4})\b"),
    re.compile(
        r"\b(?i:lives?|lived|living|resid\w+|born|raised|grew up|moved|moves|native|visit(?:ed|ing)|travel+ed|"
        r"transfer(?:red)?|"
        rf"returned|came|arrived|works?|working)[ ](?:(?i:here|back|alone|there)[ ])?(?i:in|of|from|to|"
        rf"near)[ ](?P<n>{_TOWN}(?:[ ]{_TOWN}){{0,2}})"
    ),
    re.compile(
        rf"(?P<n>{_TOWN}(?:[ ]{_TOWN}){{0,3}})(?:[ ](?:General|Memorial|Community|Regional|"
        rf"University))?[ ](?:Hospital|Medical Center|Clinic|Nursing Home|Health Center|Rehabilitation|"
        r"Hospice|Manor|Assisted Living|County)\b"
    ),
)  # fmt: skip


def find(text: str) -> tuple[list[Span], set[str]]:
    """Everything that the rules find in a text, and the name words that hold wherever they stand in it.

    Spans may overlap. The second value holds words as written, found behind a title, a label or the like.
    """
    spans = [*_plain(text), *_dates(text), *_ages(text), *_places(text)]
    words: set[str] = set()
    for pattern, elsewhere in _NAMES:
        for match in pattern.finditer(text):
            for start, end in _name_words(text, *match.span("n")):
                spans.append(Span(start, end, "NAME"))
                if elsewhere and end - start > 2:
                    words.add(text[start:end])
    return spans, words


_WORD = re.compile(rf"{_U}?[^\W\d_]*(?:['’]{_U}[^\W\d_]+)?(?:-[^\W\d_]+)*\.?")
_POSSESSIVE = re.compile(r"['’][sS]$")


def _name_words(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The words of a run that can be names: those after the last word that cannot, up to the next that cannot."""
    words: list[tuple[int, int]] = []
    for match in re.finditer(r"[^\s,]+", text[start:end]):
        bare = _POSSESSIVE.sub("", match.group().rstrip(".,;:"))
        initial = bool(words) and len(bare) == 1 and bare.isupper()
        if not initial and bare.lower().rstrip(".") in NOT_NAMES:
            if words:
                break
            continue
        at = start + match.start()
        stop = at + len(bare) + (1 if len(bare) == 1 and match.group()[1:2] == "." else 0)
        if "." in bare and len(bare) > 2:  # initials such as J.S.
            stop = at + len(match.group().rstrip(",;:"))
        words.append((at, stop))
    if all(stop - at <= 2 for at, stop in words) and len(words) == 1 and "." not in text[start:end]:
        return
    yield from words


def _plain(text: str) -> Iterator[Span]:
    for cls, pattern in _PLAIN:
        for match in pattern.finditer(text):
            yield Span(*match.span(), cls)
    for match in _PHONE.finditer(text):
        fax = _FAX_BEFORE.search(text[max(match.start() - 20, 0) : match.start()])
        yield Span(*match.span(), "FAX" if fax else "PHONE")
    for cls, pattern in _CUED_RULES:
        for match in pattern.finditer(text):
            if sum(c.isdigit() for c in match.group("n")) >= (3 if cls != "OTHER" else 4):
                yield Span(*match.span("n"), cls)
    for cls, pattern in (("PHONE", _PAGER), ("VEHICLE", _PLATE)):
        for match in pattern.finditer(text):
            yield Span(*match.span("n"), cls)


def _dates(text: str) -> Iterator[Span]:
    for pattern in DATES:
        for match in pattern.finditer(text):
            yield Span(*match.span(), "DATE")
    for match in _MONTH_AND_DAY.finditer(text):
        before, after = text[max(match.start() - 14, 0) : match.start()], text[match.end() : match.end() + 12]
        month, day = match.group("m", "d")
        sure = month[0] == "0" or day[0] == "0" or bool(_DAY_CUE.search(before)) or int(day) > 12
        if sure and not _RATIO.search(before) and not _AFTER_RATIO.match(after):
            yield Span(*match.span(), "DATE")


def _ages(text: str) -> Iterator[Span]:
    for match in _AGE.finditer(text):
        yield Span(*match.span(next(name for name, value in match.groupdict().items() if value)), "AGE")


def _places(text: str) -> Iterator[Span]:
    for pattern in _PLACES:
        for match in pattern.finditer(text):
            first = match.group("n").split()[0].lower()
            if (first not in PLACE_STOPS and not match.group("n").isupper()) or match.group("n")[0].isdigit():
                yield Span(*match.span("n"), "LOCATION")


def born_long_ago(text: str, year: int) -> Iterator[Span]:
    """Years of birth that tell an age over 89 in ``year``."""
    for match in _BORN.finditer(text):
        if year - int(match.group("y")) > OLDEST_AGE_SHOWN:
            yield Span(*match.span("y"), "DATE")


# Parsed by deid_surrogates beside DATES: a month and a day without a year.
MONTH_AND_DAY = _MONTH_AND_DAY
