"""Multiple-choice questions that a user brings: reading them, and how many a model answers.

Read are JSON Lines, one object a line (``.jsonl``, or ``.jsonl.gz``)::

    {"question": "Which organ fails in uraemia?", "options": ["liver", "kidney"], "answer": "B", "context": "…"}

``options`` is a list, or an object by letter; ``answer`` its letter, its place from 0, or the option itself;
``context`` may be missing. The published files of two sets are read as they come (``.json``, ``.json.gz``): PubMedQA
(an object of questions with ``QUESTION``, ``CONTEXTS`` and ``final_decision``) and SciQ (a list of objects with
``correct_answer``, ``distractor1`` to ``distractor3`` and ``support``).
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lang1.common.errors import InputError
from lang1.common.identity import unit_hash
from lang1.text.questions import letters

PUBMEDQA = ("yes", "no", "maybe")


@dataclass(frozen=True)
class Choice:
    """One question: which of the options is right, and what may be read first."""

    question: str
    options: tuple[str, ...]
    answer: int
    context: str = ""

    def rendered(self) -> str:
        """As questions about notes are asked; the continuation is " A", " B", …."""
        lines = [f"{letter}. {option}" for letter, option in zip(letters(len(self.options)), self.options, strict=True)]
        return "\n\nQuestion: " + "\n".join([self.question, *lines, "Answer:"])


def read_choices(file: Path, most: int | None = None, seed: int = 0) -> list[Choice]:
    """The questions of a file, or a fixed ``most`` of them: those whose text hashes lowest.

    Raises:
        InputError: no such file, a line or an entry that is no question, or none at all.
    """
    try:
        content = file.read_bytes()
        text = (gzip.decompress(content) if file.suffix == ".gz" else content).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read ({error}); expected multiple-choice questions.") from error
    found = [_checked(where, fields) for where, fields in _entries(file, text)]
    if not found:
        raise InputError(f"{file}: no questions in it.")
    if most is not None and most < len(found):
        found = sorted(found, key=lambda one: unit_hash(one.context + one.rendered(), f"choices-{seed}"))[:most]
    return found


def _entries(file: Path, text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each question as ``question, options, answer, context``, with its place in the file."""
    if ".jsonl" in file.suffixes:
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield f"{file} line {number}", _object(f"{file} line {number}", line)
        return
    try:
        whole = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{file}: not JSON ({error}); lines of JSON belong in a file named .jsonl.") from error
    if isinstance(whole, dict) and all(isinstance(one, dict) and "final_decision" in one for one in whole.values()):
        for key, one in whole.items():
            yield (
                f"{file} '{key}'",
                {
                    "question": one.get("QUESTION"),
                    "options": list(PUBMEDQA),
                    "answer": one["final_decision"],
                    "context": "\n".join(one.get("CONTEXTS") or []),
                },
            )
        return
    if isinstance(whole, list) and all(isinstance(one, dict) and "correct_answer" in one for one in whole):
        for number, one in enumerate(whole):
            right = one["correct_answer"]
            # In the order of the alphabet, so that the right one has no place of its own.
            options = sorted({right, *(one[name] for name in sorted(one) if name.startswith("distractor"))})
            context = one.get("support", "")
            yield (
                f"{file} entry {number}",
                {"question": one.get("question"), "options": options, "answer": right, "context": context},
            )
        return
    raise InputError(f"{file}: neither PubMedQA nor SciQ; give lines of question, options, answer in a .jsonl file.")


def _object(where: str, line: str) -> Mapping[str, Any]:
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not JSON ({error.msg}).") from error
    if not isinstance(fields, dict):
        raise InputError(f"{where}: expected an object with question, options and answer.")
    return fields


def _checked(where: str, fields: Mapping[str, Any]) -> Choice:
    question, options, answer = fields.get("question"), fields.get("options"), fields.get("answer")
    if not isinstance(question, str) or not question.strip():
        raise InputError(f"{where}: 'question' is missing; expected a text.")
    names = letters(min(26, max(2, len(options)))) if isinstance(options, list | dict) else []
    if isinstance(options, dict):
        if sorted(options) != names:
            raise InputError(f"{where}: 'options' by letter are expected as {', '.join(names)}.")
        options = [options[name] for name in names]
    if not isinstance(options, list) or not 2 <= len(options) <= 26 or not all(_line(one) for one in options):
        raise InputError(f"{where}: 'options' must be 2 to 26 texts of one line each.")
    if isinstance(answer, int) and not isinstance(answer, bool):
        place = answer
    elif answer in options:
        place = options.index(answer)
    elif isinstance(answer, str) and answer.strip() in names:
        place = names.index(answer.strip())
    else:
        place = -1
    if not 0 <= place < len(options):
        raise InputError(f"{where}: 'answer' {answer!r} is none of its {len(options)} options.")
    return Choice(" ".join(question.split()), tuple(options), place, str(fields.get("context") or ""))


def _line(option: Any) -> bool:
    return isinstance(option, str) and bool(option.strip()) and "\n" not in option
