"""Cutting a note to its budget of tokens, before any question is joined to it."""

from __future__ import annotations

from typing import Literal, TypeVar, get_args

import numpy as np
import numpy.typing as npt

from lang1.common.errors import SettingsError

Policy = Literal["head", "tail", "head+tail"]
Token = TypeVar("Token", bound=np.integer)


def truncate(tokens: npt.NDArray[Token], budget: int, policy: Policy | str = "head") -> tuple[npt.NDArray[Token], int]:
    """Cut a note's tokens to a budget.

    Only the note is cut, never the question, and the budget is the same whichever question follows, so that several
    questions can share the note's pass.

    Args:
        tokens: shape (n,), the note alone.
        budget: the most tokens that remain.
        policy: which part remains: ``head`` (the paper's right-truncation), ``tail``, or ``head+tail``, half each
            with the odd token to the head.

    Returns:
        The tokens that remain, shape (min(n, budget),), and how many were cut.

    Raises:
        SettingsError: a budget under 1 or an unknown policy.
    """
    if budget < 1:
        raise SettingsError(f"note budget {budget}: expected at least 1 token.")
    if policy not in get_args(Policy):
        raise SettingsError(f"truncation policy '{policy}': expected one of {', '.join(get_args(Policy))}.")
    cut = len(tokens) - budget
    if cut <= 0:
        return tokens, 0
    if policy == "head":
        return tokens[:budget], cut
    if policy == "tail":
        return tokens[cut:], cut
    head = (budget + 1) // 2
    return np.concatenate([tokens[:head], tokens[head + cut :]]), cut
