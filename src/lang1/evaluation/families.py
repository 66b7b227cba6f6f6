"""P-values corrected for how many questions were asked: Holm for claims, Benjamini-Hochberg for exploration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lang1.metrics.multiple import CORRECTIONS

# What is claimed: one specialist against the others on the headline split. An oracle is a bound and no rival.
CLAIMED = "auroc"


def correct(rows: Sequence[dict[str, Any]], headline: str) -> list[dict[str, Any]]:
    """Set ``p_adjusted``, ``correction`` and ``family`` (its size) in rows that hold a ``p``; tell the families.

    Claims (Holm, one family a model): its paired differences in AUROC on the headline split, oracles aside. Exploration
    (Benjamini-Hochberg, one family a kind): other paired differences, and the gaps between subgroups.

    Returns:
        ``{family, correction, size, below: how many stay below 0.05}``, in order of appearance.
    """
    families: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        if row.get("p") is not None:
            families.setdefault(_family(row, headline), []).append(row)
    told = []
    for (name, correction), members in families.items():
        adjusted = CORRECTIONS[correction]([row["p"] for row in members])
        for row, value in zip(members, adjusted, strict=True):
            row |= {"p_adjusted": float(value), "correction": correction, "family": len(members)}
        below = int((adjusted < 0.05).sum())
        told.append({"family": name, "correction": correction, "size": len(members), "below": below})
    return told


def _family(row: Mapping[str, Any], headline: str) -> tuple[str, str]:
    if row["stratum"]:
        return f"{row['model']}, {row['regime']}: gaps between subgroups", "bh"
    rival = str(row["versus"]).rpartition("|")[2] != "oracle"
    if row["metric"] == CLAIMED and row["split"] == headline and rival:
        return f"{row['model']}, {row['regime']}: AUROC against others, {headline}", "holm"
    return f"{row['model']}, {row['regime']}: other paired differences", "bh"
