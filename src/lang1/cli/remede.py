"""``lang1 remede``: build, show, audit and describe a benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lang1.cli.parts import Config, Overrides, done, load

remede = typer.Typer(
    help="The benchmark: tasks, labels, splits, attrition. Example: `lang1 remede build ./records ./benchmark`",
    no_args_is_help=True,
)


@remede.command("build")
def remede_build(
    records: Annotated[Path, typer.Argument(help="Records folder.")],
    out: Annotated[Path, typer.Argument(help="Benchmark folder to write.")],
    overrides: Overrides = None,
    config: Config = None,
) -> None:
    """Label the records, split them by time and patient, and print what was left out, rule by rule.

    Example: `lang1 remede build ./hospitals/riverside ./benchmark calendar=paper`
    """
    from lang1.remede.build import build
    from lang1.remede.settings import BuildSettings

    build(records, out, load(BuildSettings, config, overrides))
    remede_show(out)
    done(out, f"lang1 corpus {records} {out} ./corpus")


@remede.command("show")
def remede_show(benchmark: Annotated[Path, typer.Argument(help="Benchmark folder.")]) -> None:
    """Print a benchmark's attrition ledger and class shares.

    Example: `lang1 remede show ./benchmark`
    """
    from lang1.remede.benchmark import Benchmark
    from lang1.remede.summary import summary_lines

    for line in summary_lines(Benchmark.open(benchmark)):
        print(line)
