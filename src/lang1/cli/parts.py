"""What the verbs share: settings from the command line, closing lines, tables."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from lang1.common.progress import say

Overrides = Annotated[
    list[str] | None, typer.Argument(help="Settings as field=value (section.field=value).", metavar="[FIELD=VALUE]...")
]
Config = Annotated[Path | None, typer.Option("--config", "-c", help="Settings file (YAML).")]
LaunchOption = Annotated[
    str | None, typer.Option("--launch", help="local, slurm (writes the script) or ray; docs/launch.md.")
]
SubmitOption = Annotated[bool, typer.Option("--submit", help="With --launch slurm: submit it too.")]


def launch_overrides(how: str | None, submit: bool) -> list[str]:
    """``--launch`` and ``--submit`` as settings."""
    return [*([f"launch.how={how}"] if how else []), *(["launch.submit=true"] if submit else [])]


def load(model: Any, config: Path | None, overrides: list[str] | None, base: dict[str, Any] | None = None) -> Any:
    """Settings from a file, then the command line."""
    from lang1.common.settings import load_settings

    return load_settings(model, config, overrides or (), base)


def done(out: Path, next_command: str) -> None:
    """The closing line: where the result lies and what to run next."""
    say(f"Done: {out}. Next: {next_command}")


def print_table(table: Any) -> None:
    """A rich table, as wide as the terminal, or 100 columns off one."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 100).print(table)


def print_left_out(folder: Path) -> None:
    """What a folder's manifest counts as left out, one line a reason."""
    from lang1.common.artefact import MANIFEST, read_json

    for reason, rows in read_json(folder / MANIFEST)["left_out"].items():
        say(f"left out: {rows} ({reason})")
