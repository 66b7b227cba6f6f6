"""Text that carries no fact: templates, medication lists, normal findings, and the short notes of a stay.

Everything here is drawn from uniforms that no outcome depends on.
"""

from __future__ import annotations

from collections.abc import Sequence

_HISTORY = (
    "The history was taken from the patient and from the chart, and it was felt to be reliable.",
    "History obtained from patient and family at the bedside; outside records were requested and are awaited.",
    "Records from the prior provider were reviewed where available, the remainder is per the patient's own account.",
    "Interpreter was offered and was not needed. History is limited by recall of exact dates.",
)
_REVIEW = (
    "Review of systems: ten systems were asked about; other than as above there is nothing further to report.",
    "ROS: constitutional, eyes, ears, skin, joints and nerves reviewed, nothing to add beyond the lines above.",
    "Review: sleep fair, mood fair, no new rash, no new joint trouble, no change in hearing or sight.",
    "ROS as per the history; remaining review was unremarkable on direct questioning today.",
)
_MEDICATIONS = (
    "aspirin 81 mg daily", "metoprolol 25 mg twice daily", "lisinopril 10 mg daily", "atorvastatin 40 mg nightly",
    "omeprazole 20 mg daily", "gabapentin 300 mg three times daily", "amlodipine 5 mg daily", "sertraline 50 mg daily",
    "vitamin d 1000 units daily", "acetaminophen 650 mg as needed", "senna nightly", "levothyroxine 75 mcg daily",
    "tamsulosin 0.4 mg nightly", "melatonin 3 mg nightly",
)  # fmt: skip
_SOCIAL = (
    "Social history: stopped smoking years ago, rare alcohol, no other substances, retired from office work.",
    "SH: never smoker, wine with meals at times, no drugs, lives in a second floor flat with stairs.",
    "Social: smokes a few a day, declines cessation aids for now, drinks on weekends, enjoys gardening.",
    "Social history was reviewed and is unchanged from the last visit to this practice.",
)
_EXAM = (
    "Exam: neck supple, chest clear to bases, heart regular without murmur, abdomen soft and nontender, skin dry.",
    "Physical: appears stated age, mucosa moist, lungs with fair air entry, belly soft, no focal deficit found.",
    "On examination the throat was clear, nodes not enlarged, bowel sounds heard, joints cool, gait not tested.",
    "Exam limited by position; head atraumatic, pupils equal, no rub, no guarding, peripheral pulses felt.",
)
_COURSE = (
    "Hospital course: treated on the ward as ordered, seen daily by the team, tests followed and medicines adjusted.",
    "Course: the ward team followed the plan made on admission and changed the medicines as results came back.",
    "The stay was managed with the usual protocol for the reason above; consultants' advice was followed.",
    "Brief course: workup as documented in the daily notes, treatment completed or to be continued by mouth.",
)
_INSTRUCTIONS = (
    "Instructions: take medicines as listed, call the ward with questions, bring this sheet to every visit.",
    "The plan was explained in plain words, written material was handed over and questions were answered.",
    "Activity as tolerated, usual diet, keep dressings dry, and call for fever or any new complaint.",
    "Medicines were reconciled with the pharmacist's list and a copy was sent to the office.",
)
_PROGRESS = ("Seen on rounds.", "No acute events.", "Plan unchanged.", "Awaiting tests.", "Continue orders.")
_RADIOLOGY = (
    ("CHEST FILM", "Lungs without new opacity. Heart size as before."),
    ("CHEST FILM", "Small basal shadow, may be position. Compare with prior."),
    ("CT HEAD", "No bleed. Age related change."),
    ("ABDOMEN FILM", "Gas pattern without obstruction."),
    ("CT CHEST", "No clot seen. Small nodule, repeat in a year."),
)
_PATHOLOGY = (
    "PATHOLOGY. Sample: colon, biopsy. Mild inflammation, no dysplasia.",
    "PATHOLOGY. Sample: skin, shave. Benign keratosis.",
    "PATHOLOGY. Sample: stomach, biopsy. Chronic gastritis, no organisms seen.",
)
_EMERGENCY = (
    "EMERGENCY NOTE. Seen for ankle sprain. Film without fracture. Wrapped and sent home.",
    "EMERGENCY NOTE. Seen for sore throat. Swab sent. Fluids by mouth. Sent home.",
    "EMERGENCY NOTE. Seen for back strain. No red flags. Rest and pain pills. Sent home.",
    "OBSERVATION NOTE. Watched overnight for chest tightness. Serial tests flat. Sent home.",
)
_CLINIC = (
    "CLINIC NOTE. Routine visit. Medicines renewed. Bloods drawn.",
    "CLINIC NOTE. Follow up of chronic problems. No change today.",
    "CLINIC NOTE. Vaccines given. Counselled on diet and walking.",
)
_ADDENDUM = (
    "ADDENDUM. Culture was final without growth.",
    "ADDENDUM. Outside records received and filed.",
    "ADDENDUM. Dose in the list corrected by pharmacy.",
)


def pick(options: Sequence[str], u: float) -> str:
    """One of the options, by a uniform."""
    return options[int(u * len(options))]


def _medications(u: float, count: int) -> str:
    start = int(u * len(_MEDICATIONS))
    return ", ".join(_MEDICATIONS[(start + 5 * k) % len(_MEDICATIONS)] for k in range(count))


def _labs(u: Sequence[float]) -> str:
    return (
        f"Labs: wbc {5 + 9 * u[10]:.1f}, na {132 + int(12 * u[11])}, k {3.3 + 1.7 * u[12]:.1f}, "
        f"glucose {84 + int(120 * u[13])}, calcium {8 + 2 * u[14]:.1f}, ast {14 + int(40 * u[15])}."
    )


def before_problems(u: Sequence[float]) -> list[str]:
    """History, review of systems and social history of a long admission note."""
    return [pick(_HISTORY, u[3]), pick(_REVIEW, u[4]), pick(_SOCIAL, u[5])]


def after_vitals(u: Sequence[float]) -> list[str]:
    """Normal findings, laboratory values and home medicines of a long admission note."""
    return [pick(_EXAM, u[6]), _labs(u), f"Home medicines: {_medications(u[7], 3 + int(4 * u[8]))}."]


def course(u: Sequence[float]) -> list[str]:
    """The hospital course of a long discharge note."""
    return [pick(_HISTORY, u[13]), pick(_COURSE, u[3]), _labs(u), pick(_EXAM, u[12])]


def instructions(u: Sequence[float]) -> list[str]:
    """Medicines and instructions of a long discharge note."""
    return [f"Discharge medicines: {_medications(u[5], 4 + int(4 * u[6]))}.", pick(_INSTRUCTIONS, u[7])]


def progress(u: float, copied: str) -> str:
    """A progress note; ``copied`` is carried forward from the admission note."""
    return f"PROGRESS NOTE. {pick(_PROGRESS, u)} Copied forward: {copied}"


def radiology(u: float) -> str:
    """A radiology report."""
    title, text = _RADIOLOGY[int(u * len(_RADIOLOGY))]
    return f"{title}. {text}"


def pathology(u: float) -> str:
    """A pathology report."""
    return pick(_PATHOLOGY, u)


def emergency(u: float) -> str:
    """A note of an emergency or observation visit."""
    return pick(_EMERGENCY, u)


def clinic(u: float) -> str:
    """A note of an outpatient visit."""
    return pick(_CLINIC, u)


def addendum(u: float) -> str:
    """A late addendum to a discharge summary."""
    return pick(_ADDENDUM, u)
