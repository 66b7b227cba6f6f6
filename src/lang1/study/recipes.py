"""The recipes that ship with the package, and the demo's choice among them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from lang1.common.errors import SettingsError
from lang1.study.spec import StudySpec, load_study

DEMOS = {"simulated": "demo.yaml", "diabetes-130": "diabetes-130.yaml"}


def recipe_path(name: str) -> Path:
    """The path of a recipe inside the installed package."""
    return Path(str(resources.files("lang1") / "recipes" / name))


def study_file(file: Path) -> Path:
    """A study's file: as named, or else the recipe of the package that is meant by ``recipes/NAME``.

    Raises:
        SettingsError: neither is there.
    """
    name = str(file).removeprefix("recipes/")
    if file.exists():
        return file
    if not Path(name).is_absolute() and recipe_path(name).is_file():
        return recipe_path(name)
    raise SettingsError(f"{file} does not exist, and the package has no recipe '{name}'.")


def demo_study(data: str, *, smoke: bool, full: bool, overrides: Sequence[str]) -> tuple[StudySpec, Path]:
    """The study of ``lang1 demo`` and the folder it writes to by default.

    Raises:
        SettingsError: unknown data, or ``--full`` where the recipe has no such variant.
    """
    if data not in DEMOS:
        raise SettingsError(f"--data {data}: unknown; choose {' or '.join(DEMOS)}.")
    variants = [name for name, chosen in (("full", full), ("smoke", smoke)) if chosen]
    spec = load_study(recipe_path(DEMOS[data]), overrides, variants)
    suffix = "" if data == "simulated" else f"-{data}"
    return spec, Path(f"lang1-demo{suffix}{'-full' if full else ''}{'-smoke' if smoke else ''}")
