"""Cutting a note to its budget of tokens, before any question is joined to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar, get_args

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator

from lang1.common.errors import SettingsError
from lang1.common.sections import HEADINGS, sections

Plain = Literal["head", "tail", "head+tail"]
SECTIONS = "sections"
Token = TypeVar("Token", bound=np.integer)
Starts = npt.NDArray[np.int64]

# What a clinician would read first of a long note; sections that are named nowhere follow in the note's order.
PRIORITY = (
    "hospital_course",
    "discharge_diagnosis",
    "assessment_and_plan",
    "history_of_present_illness",
    "chief_complaint",
    "past_medical_history",
    "start",
    "addendum",
    "procedures",
    "discharge_condition",
    "discharge_disposition",
    "discharge_medications",
    "social_history",
    "results",
    "vital_signs",
    "physical_exam",
    "discharge_physical",
    "medications",
)


def check_policy(policy: str) -> str:
    """A truncation policy as it was given.

    ``head`` (the paper's right-truncation), ``tail``, ``head+tail`` (half each, the odd token to the head),
    ``sections`` (whole sections by :data:`PRIORITY`), or ``sections:NAME,NAME,…`` with names of
    ``common/sections.py`` in the user's own order.

    Raises:
        ValueError: none of these.
    """
    if policy in get_args(Plain):
        return policy
    kind, _, listed = policy.partition(":")
    if kind != SECTIONS or (":" in policy and not listed):
        raise ValueError(
            f"truncation policy '{policy}': expected {', '.join(get_args(Plain))}, {SECTIONS} or {SECTIONS}:NAME,NAME…"
        )
    for name in filter(None, listed.split(",")):
        if name.strip() not in (*HEADINGS, "start", "other"):
            raise ValueError(
                f"truncation policy '{policy}': no section is called '{name.strip()}'; known are start, other, "
                f"{', '.join(HEADINGS)}"
            )
    return policy


Policy = Annotated[str, AfterValidator(check_policy)]


def by_section(policy: str) -> bool:
    """Whether a policy reads the note's sections, so that it needs the text beside the tokens."""
    return policy.partition(":")[0] == SECTIONS


def truncate(
    tokens: npt.NDArray[Token],
    budget: int,
    policy: str = "head",
    text: str | None = None,
    starts: Sequence[int] | Starts | None = None,
) -> tuple[npt.NDArray[Token], int]:
    """Cut a note's tokens to a budget.

    Only the note is cut, never the question, and the budget is the same whichever question follows, so that several
    questions can share the note's pass.

    Args:
        tokens: shape (n,), the note alone.
        budget: the most tokens that remain.
        policy: which part remains; see :func:`check_policy`.
        text: the note; read by ``sections`` alone.
        starts: shape (n,), the character at which each token starts; likewise.

    Returns:
        The tokens that remain, shape (min(n, budget),), and how many were cut.

    Raises:
        SettingsError: a budget under 1 or an unknown policy.
    """
    cut = max(0, len(tokens) - budget)
    kept = keep(len(tokens), budget, policy, text, starts)
    return (tokens if not cut else tokens[kept]), cut


def keep(
    size: int, budget: int, policy: str = "head", text: str | None = None, starts: Sequence[int] | Starts | None = None
) -> npt.NDArray[np.int64]:
    """The places of the tokens that :func:`truncate` keeps, ascending, shape (min(size, budget),)."""
    if budget < 1:
        raise SettingsError(f"note budget {budget}: expected at least 1 token.")
    try:
        check_policy(policy)
    except ValueError as error:
        raise SettingsError(f"{error}.") from error
    places = np.arange(size, dtype=np.int64)
    cut = size - budget
    if cut <= 0:
        return places
    if by_section(policy):
        assert text is not None and starts is not None and len(starts) == size, "sections are found in the text"
        return _keep_sections(np.asarray(starts, dtype=np.int64), budget, policy, text)
    if policy == "head":
        return places[:budget]
    if policy == "tail":
        return places[cut:]
    head = (budget + 1) // 2
    return np.concatenate([places[:head], places[head + cut :]])


def _keep_sections(starts: Starts, budget: int, policy: str, text: str) -> npt.NDArray[np.int64]:
    """Whole sections in the order of their priority, the last one cut at its end, and laid out in the note's order."""
    found = sections(text)
    named = [name.strip() for name in policy.partition(":")[2].split(",") if name.strip()] or list(PRIORITY)
    rank = {name: place for place, name in enumerate(named)}
    order = sorted(range(len(found)), key=lambda i: (rank.get(found[i].name, len(rank)), i))
    bounds = np.searchsorted(starts, [section.start for section in found] + [len(text) + 1])
    kept = np.zeros(len(starts), dtype=bool)
    left = budget
    for i in order:
        first, last = int(bounds[i]), int(bounds[i + 1])
        taken = min(last - first, left)
        kept[first : first + taken] = True
        left -= taken
        if not left:
            break
    return np.flatnonzero(kept)


def edges(found: Any) -> Starts:
    """The character at which each token of a ``tokenizers.Encoding`` starts; special tokens are not expected."""
    return np.asarray([start for start, _ in found.offsets], dtype=np.int64).reshape(-1)


def cut_text(text: str, spans: Sequence[tuple[int, int]], budget: int, policy: str = "head") -> tuple[str, int]:
    """A text cut to a budget on its tokens' edges, and how many tokens were cut.

    Args:
        text: the text.
        spans: the characters of each token, ``(start, end)``; white space between two that stay also stays.
        budget: the most tokens that remain.
        policy: which; see :func:`check_policy`.
    """
    if len(spans) <= budget:
        return text, 0
    kept = keep(len(spans), budget, policy, text, [start for start, _ in spans])
    runs = np.split(kept, np.flatnonzero(np.diff(kept) > 1) + 1)
    parts = []
    for run in runs:
        first, last = int(run[0]), int(run[-1])
        parts.append(
            text[0 if not first else spans[first][0] : len(text) if last + 1 == len(spans) else spans[last][1]]
        )
    return "".join(parts), len(spans) - budget
