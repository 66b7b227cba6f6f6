"""``lang1 remede``: build, show, audit and describe a benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lang1.cli.parts import Config, Overrides, done, load
from lang1.common.progress import say

remede = typer.Typer(
    help="The benchmark: tasks, labels, splits, attrition. Example: `lang1 remede build ./records ./benchmark`",
    no_args_is_help=True,
)


@remede.command("build")
def remede_build(
    records: Annotated[Path, typer.Argument(help="Records folder; with --open, the folder of open data sets.")],
    out: Annotated[Path, typer.Argument(help="Benchmark folder to write; with --open, a folder of them.")],
    overrides: Overrides = None,
    config: Config = None,
    open_data: Annotated[
        bool, typer.Option("--open", help="Build from open data: Diabetes-130, the eICU demo, the MIMIC-IV demo.")
    ] = False,
) -> None:
    """Label the records, split them by time and patient, and print what was left out, rule by rule.

    Example: `lang1 remede build ./hospitals/riverside ./benchmark calendar=paper`, or with open data
    `lang1 remede build --open ./downloads ./remede-open`
    """
    if open_data:
        from lang1.remede.open_data import build_open

        if overrides or config:
            raise typer.BadParameter("--open takes no settings: build from the records it writes to change them.")
        for folder in build_open(records, out):
            remede_show(folder)
        done(out, f"lang1 evaluate MODEL {out}/eicu ./evaluation --predictions {out}/eicu-apache")
        return
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


@remede.command("audit")
def remede_audit(
    benchmark: Annotated[Path, typer.Argument(help="Benchmark folder.")],
    out: Annotated[Path | None, typer.Argument(help="Folder to write; default beside the benchmark.")] = None,
    overrides: Overrides = None,
    corpus: Annotated[
        list[Path] | None, typer.Option("--corpus", help="A corpus that models were pretrained on; repeatable.")
    ] = None,
    model: Annotated[list[Path] | None, typer.Option("--model", help="A model folder; repeatable.")] = None,
    config: Config = None,
) -> None:
    """Ask every guard against leaks of a benchmark; exit code 1 if one fails.

    Example: `lang1 remede audit ./benchmark ./audit --corpus ./corpus`
    """
    from lang1.remede.audit import AuditSettings, audit
    from lang1.remede.audit.finding import worst
    from lang1.remede.audit.run import HTML

    place = out or benchmark.parent / f"{benchmark.name}-audit"
    report = audit(benchmark, place, load(AuditSettings, config, overrides), corpora=corpus or (), models=model or ())
    for guard, found in report.by_guard().items():
        gravest = worst(found)
        telling = [finding for finding in found if finding.verdict == gravest]
        # All that fails or warns is said; of what passes the first stands for all, which the page shows.
        for finding in telling if gravest in ("fail", "warn") else telling[:1]:
            about = f" ({finding.task})" if finding.task else ""
            print(f"{gravest.replace('_', ' '):<14} {guard}{about}: {finding.words}")
    failed = sum(finding.verdict == "fail" for finding in report.findings)
    say(f"{f'{failed} findings fail' if failed else 'No guard failed'}: {place / HTML}")
    if report.failed:
        raise typer.Exit(1)


@remede.command("card")
def remede_card(
    benchmark: Annotated[Path, typer.Argument(help="Benchmark folder.")],
    out: Annotated[Path | None, typer.Argument(help="Folder to write; default beside the benchmark.")] = None,
) -> None:
    """Write a benchmark's datasheet: population, attrition, label rules, shares by split and group, limits.

    Example: `lang1 remede card ./benchmark ./for-the-committee`
    """
    from lang1.remede.datasheet import write_datasheet

    page, text = write_datasheet(benchmark, out or benchmark.parent / f"{benchmark.name}-datasheet")
    say(f"Done: {page} and {text.name}.")


@remede.command("export")
def remede_export(
    benchmark: Annotated[Path, typer.Argument(help="Benchmark folder.")],
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    overrides: Overrides = None,
    kind: Annotated[
        str, typer.Option("--format", help="meds: MEDS 0.4 labels and splits; lm-eval: tasks of that harness.")
    ] = "meds",
    predictions: Annotated[
        Path | None, typer.Option(help="Predictions folder: write it for meds-evaluation instead.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="lm-eval: the model that will be asked; its tokenizer cuts the notes.")
    ] = None,
) -> None:
    """Write labels, or a model's predictions, in the schemas of MEDS, or tasks for lm-evaluation-harness.

    Example: `lang1 remede export ./benchmark ./meds --format meds`, or `lang1 remede export ./benchmark ./tasks
    --format lm-eval --model ./exported note_budget=512`
    """
    from lang1.common.errors import SettingsError

    if kind == "lm-eval":
        from lang1.evaluation.export_lm_eval import export_lm_eval
        from lang1.evaluation.settings import EvaluateSettings

        if model is None:
            raise SettingsError("--format lm-eval needs --model: notes are cut with its tokenizer.")
        export_lm_eval(benchmark, model, out, load(EvaluateSettings, None, overrides))
        say(
            f"Done: {out}. Next: lm_eval --model hf --model_args pretrained=EXPORTED --include_path {out} "
            "--tasks lang1 --log_samples --output_path ./harness"
        )
        return
    if kind != "meds":
        raise SettingsError(f"--format {kind}: expected meds or lm-eval.")
    if overrides:
        raise SettingsError("--format meds takes no settings.")
    if predictions is not None:
        from lang1.evaluation.export import export_predictions_meds

        export_predictions_meds(predictions, benchmark, out)
        say(f"Done: {out}. Score it with: meds-evaluation-cli predictions_path={out}/SPLIT/TASK.parquet")
        return
    from lang1.remede.export import export_meds

    export_meds(benchmark, out)
    say(f"Done: {out}.")
