"""The questions that stand after a note, with lettered options.

The layout (note, question, one option a line, ``Answer:``) is that of the Lang1 paper (arXiv 2511.13703, section on
ReMedE); the wording is this project's own and short, since every token of a question is computed for every example.
"""

from __future__ import annotations

from collections.abc import Sequence

from lang1.common.errors import InputError
from lang1.text.tokenizer import ALPHABET

# By template name. What is asked matches the label rule of the task's card, not a looser reading of it.
QUESTIONS: dict[str, str] = {
    "readmission": "Will this patient be back in hospital within 30 days of discharge?",
    "mortality": "Will this patient die during this hospital stay?",
    "length_of_stay": "How many days will this patient stay in hospital?",
    "comorbidity": "What Charlson comorbidity index do the codes of this stay give?",
    "insurance_denial": "Will the insurer deny the claim for this stay at least once?",
    "generic": "Which of these answers is true of this patient?",
}


def letters(n: int) -> list[str]:
    """The first ``n`` option letters.

    Raises:
        InputError: ``n`` is not between 2 and 26.
    """
    if not 2 <= n <= len(ALPHABET):
        raise InputError(f"a question has {n} options; between 2 and {len(ALPHABET)} can be lettered.")
    return list(ALPHABET[:n])


def question_text(template: str) -> str:
    """The wording for a template's name; a wording of the user's own, ending in a question mark, stands for itself.

    Raises:
        InputError: neither a known name nor a question.
    """
    if template in QUESTIONS:
        return QUESTIONS[template]
    if template.endswith("?") and "\n" not in template:
        return template
    raise InputError(
        f"question '{template}': expected one of {', '.join(QUESTIONS)}, or a wording of one line that ends in '?'."
    )


def render_question(template: str, options: Sequence[str]) -> str:
    """The text that follows a note: question, lettered options, ``Answer:``. The continuation is " A", " B", ….

    Args:
        template: a name in :data:`QUESTIONS`, or a question in the user's own words.
        options: the class names in class order.

    Raises:
        InputError: unknown template, a wrong number of options, or an option that is empty or of several lines.
    """
    for option in options:
        if not option.strip() or "\n" in option:
            raise InputError(f"question '{template}': option {option!r} must be one line of text.")
    lines = [f"{letter}. {option}" for letter, option in zip(letters(len(options)), options, strict=True)]
    return "\n\nQuestion: " + "\n".join([question_text(template), *lines, "Answer:"])
