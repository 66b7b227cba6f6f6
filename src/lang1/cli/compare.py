"""``lang1 compare``: several evaluations of one benchmark side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lang1.cli.parts import Config, load, print_table
from lang1.common.progress import say


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="Predictions, results or evaluation folders; then settings as field=value.",
            metavar="RUN... [FIELD=VALUE]...",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")] = Path("comparison"),
    benchmark: Annotated[
        Path | None, typer.Option("--benchmark", help="The benchmark, if it is not where the runs say.")
    ] = None,
    config: Config = None,
) -> None:
    """Compare models: a table of models and tasks, paired differences, corrected p-values; JSON, CSV, LaTeX, HTML.

    Example: `lang1 compare ./evaluation-a ./evaluation-b --out ./comparison reference=lang1-100m`
    """
    from lang1.evaluation.compare import FILE, CompareSettings
    from lang1.evaluation.compare import compare as run
    from lang1.reporting.compare_report import render_comparison
    from lang1.reporting.terminal import closing_table

    folders = [Path(item) for item in runs if "=" not in item or Path(item).exists()]
    settings = [item for item in runs if Path(item) not in folders]
    result = run(
        folders,
        out,
        load(CompareSettings, config, settings),
        benchmark=benchmark,
        finish=lambda file: render_comparison(file, file.with_name("comparison.html")),
    )
    print_table(closing_table(result))
    about = result["comparison"]
    say(f"{about['family']} comparisons with {about['reference']}, corrected ({about['correction']}).")
    say(f"Done: {out / 'comparison.html'}  (numbers: {out / FILE}, comparison.csv, comparison.tex)")
