"""``lang1 explain``: what in one note moved a model's answer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lang1.cli.parts import Config, Overrides, load
from lang1.common.progress import say


def explain(
    model: Annotated[Path, typer.Argument(help="Finetuned model folder.")],
    benchmark: Annotated[Path, typer.Argument(help="Benchmark folder.")],
    example_id: Annotated[str, typer.Argument(help="TASK:ENCOUNTER, as predictions.parquet names it.")],
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option("--out", help="Folder to write; it will hold the note's text.")] = Path(
        "explanation"
    ),
    config: Config = None,
) -> None:
    """Which sections and phrases of one note moved an answer, and whether that can be believed; JSON and HTML.

    Example: `lang1 explain ./finetuned ./benchmark readmission:E0000012 --out ./why`
    """
    from lang1.evaluation.explain import FILE, ExplainSettings
    from lang1.evaluation.explain import explain as run
    from lang1.reporting.explain_report import render_explanation

    result = run(
        model,
        benchmark,
        example_id,
        out,
        load(ExplainSettings, config, overrides),
        finish=lambda file: render_explanation(file, file.with_name("explanation.html")),
    )
    for line in result["faithfulness"]:
        verdict = "moves the score more than" if line["faithful"] else "is not shown to move the score more than"
        say(f"{line['method']}: taking out its {line['phrases']} strongest phrases {verdict} random ones.")
    say(f"Done: {out / 'explanation.html'}  (numbers: {out / FILE})")
