"""The ``lang1`` command: verbs in the order of the flow. Parse, call, print; no logic."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import lang1
from lang1.cli.compare import compare
from lang1.cli.explain import explain
from lang1.cli.ingest import ingest
from lang1.cli.parts import (
    Config,
    LaunchOption,
    Overrides,
    SubmitOption,
    done,
    launch_overrides,
    load,
    print_left_out,
    print_table,
)
from lang1.cli.remede import remede
from lang1.common.errors import Lang1Error, SettingsError
from lang1.common.progress import console, say

# The order of the flow, in which --help lists the verbs.
VERBS = (
    "simulate",
    "ingest",
    "remede",
    "corpus",
    "import",
    "pretrain",
    "finetune",
    "evaluate",
    "compare",
    "predict",
    "explain",
    "study",
    "report",
    "export",
    "demo",
    "doctor",
)


class Flow(TyperGroup):
    """Lists the verbs in the order of the flow, groups and single commands alike."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of the verbs, in order."""
        return sorted(super().list_commands(ctx), key=VERBS.index)


app = typer.Typer(
    name="lang1",
    cls=Flow,
    add_completion=False,
    help="Train, benchmark and judge small clinical language models on a hospital's own records.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with `lang1 demo`. Settings of any verb can be changed as `field=value` at the end of the line.",
)


def main() -> None:
    """Run the command line: exit code 0 done, 2 something the user can mend, 1 a fault of ours, 130 stopped."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    try:
        result = app(standalone_mode=False)
        raise SystemExit(result if isinstance(result, int) else 0)
    except Lang1Error as error:
        _fail(f"lang1: {error}", 2, debug)
    except typer.Abort:
        _fail("lang1: stopped.", 130, False)
    except KeyboardInterrupt:
        _fail("lang1: stopped. Run the same command again to go on where it was.", 130, debug)
    except Exception as error:
        if hasattr(error, "format_message"):  # click's own usage errors
            _fail(f"lang1: {error.format_message()}", 2, debug)
        _fail(
            f"lang1: unexpected {type(error).__name__}: {_first_line(error)} (--debug shows the traceback)",
            1,
            debug,
        )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")


def _fail(line: str, code: int, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    console.file.flush()
    print(line, file=sys.stderr, flush=True)
    raise SystemExit(code)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    if version:
        print(lang1.__version__)
        raise typer.Exit


@app.command()
def simulate(
    out: Annotated[Path, typer.Argument(help="Folder to write: one records folder a system, and truth/.")],
    overrides: Overrides = None,
    systems: Annotated[int, typer.Option(help="How many health systems.")] = 1,
    patients: Annotated[int, typer.Option(help="Patients in each system.")] = 5000,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 1,
    preset: Annotated[str, typer.Option(help="default (near the paper's rates) or high-acuity.")] = "default",
    config: Config = None,
) -> None:
    """Make whole health systems whose true risks are known.

    Example: `lang1 simulate --systems 2 --patients 20000 --seed 1 ./hospitals`
    """
    from lang1.simulator.settings import SimulatorSettings
    from lang1.simulator.simulate import simulate as run

    base = {"systems": systems, "patients": patients, "seed": seed, "preset": preset}
    folders = run(out, load(SimulatorSettings, config, overrides, base))
    done(out, f"lang1 remede build {folders[0]} ./benchmark")


app.add_typer(ingest, name="ingest")
app.add_typer(remede, name="remede")


@app.command()
def corpus(
    records: Annotated[Path, typer.Argument(help="Records folder.")],
    benchmark: Annotated[Path, typer.Argument(help="Benchmark whose held-out patients and periods stay out.")],
    out: Annotated[Path, typer.Argument(help="Corpus folder to write; stopped and started again, it goes on.")],
    overrides: Overrides = None,
    launch: LaunchOption = None,
    submit: SubmitOption = False,
    config: Config = None,
) -> None:
    """Clean notes and general text, train a tokenizer, write token shards.

    Example: `lang1 corpus ./hospitals/riverside ./benchmark ./corpus vocab_size=8192`
    """
    from lang1.corpus.build import build_corpus
    from lang1.corpus.settings import CorpusSettings

    asked = [*launch_overrides(launch, submit), *(overrides or [])]
    made = build_corpus([records], benchmark, out, load(CorpusSettings, config, asked))
    if made != out:
        say(f"Written: {made}. {'Submitted' if submit else 'Run it'}; its last job makes {out}.")
        return
    print_left_out(out)
    done(out, f"lang1 pretrain {out} {benchmark} ./model")


@app.command()
def pretrain(
    corpus_folder: Annotated[Path, typer.Argument(help="Corpus folder.", metavar="CORPUS")],
    benchmark: Annotated[Path, typer.Argument(help="Benchmark that the model will be judged on; overlap is refused.")],
    out: Annotated[Path, typer.Argument(help="Model folder to write.")],
    overrides: Overrides = None,
    start: Annotated[
        Path | None,
        typer.Option(help="A model or Hugging Face folder to go on from; the corpus must have its tokenizer."),
    ] = None,
    launch: LaunchOption = None,
    submit: SubmitOption = False,
    config: Config = None,
) -> int | None:
    """Train a model on a corpus, from scratch or on from another; stopped and started again, it goes on.

    Example: `lang1 pretrain ./corpus ./benchmark ./model model=lang1-100m tokens=2e9 watch.evaluation.every=500`

    On eight GPUs: `lang1 pretrain ./corpus ./benchmark ./model model=lang1-1b --launch local launch.processes=8`

    On Slurm: `lang1 pretrain ./corpus ./benchmark ./model model=lang1-7b --launch slurm --submit launch.nodes=4
    launch.processes=8 launch.gpus=true launch.partition=gpu`
    """
    from lang1.training.launch import launch as launched
    from lang1.training.settings import PretrainSettings

    settings = load(PretrainSettings, config, [*launch_overrides(launch, submit), *(overrides or [])])
    status = launched(settings.launch, "pretrain", out, sys.argv[1:])
    if status is None:
        from lang1.training.pretrain import pretrain as run

        run(corpus_folder, out, settings, benchmark=benchmark, start=start)
        done(out, f"lang1 finetune {out} {benchmark} ./finetuned")
    return status


@app.command()
def finetune(
    model: Annotated[Path, typer.Argument(help="Model folder, or a Hugging Face folder.")],
    benchmark: Annotated[Path, typer.Argument(help="Benchmark folder.")],
    out: Annotated[Path, typer.Argument(help="Model folder to write.")],
    overrides: Overrides = None,
    launch: LaunchOption = None,
    submit: SubmitOption = False,
    config: Config = None,
) -> int | None:
    """Teach a model to answer the benchmark's questions, one task or all jointly.

    Example: `lang1 finetune ./model ./benchmark ./finetuned 'tasks=[readmission, mortality]'`, or with the paper's
    settings, low-rank adapters and three seeds: `lang1 finetune ./model ./benchmark ./finetuned base=paper 'lora={}'
    'seeds=[1, 2, 3]'`

    On a Ray cluster: `lang1 finetune ./model ./benchmark ./finetuned --launch ray launch.ray_address=auto
    launch.processes=4 launch.gpus=true`
    """
    from lang1.training.launch import launch as launched
    from lang1.training.settings import FinetuneSettings

    settings = load(FinetuneSettings, config, [*launch_overrides(launch, submit), *(overrides or [])])
    if settings.seeds is not None and settings.launch.processes * settings.launch.nodes > 1:
        raise SettingsError("seeds: as several processes, start one run for each seed (seed=1, seed=2, …).")
    status = launched(settings.launch, "finetune", out, sys.argv[1:])
    if status is None and settings.seeds is not None:
        from lang1.study.seeds import finetuning_study

        given = settings.model_dump(mode="json", exclude_unset=True) | {"watch": settings.watch.model_dump(mode="json")}
        _run_and_show(finetuning_study(model, benchmark, given), out, "finetune")
    elif status is None:
        from lang1.training.finetune import finetune as run

        run(model, benchmark, out, settings)
        done(out, f"lang1 evaluate {out} {benchmark} ./evaluation")
    return status


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="Model folder made by lang1.")],
    benchmark: Annotated[Path, typer.Argument(help="Benchmark folder.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; stopped and started again, it goes on.")],
    overrides: Overrides = None,
    zero_shot: Annotated[
        list[Path] | None, typer.Option("--zero-shot", help="Another model, before finetuning, to compare with.")
    ] = None,
    generalist: Annotated[
        list[Path] | None,
        typer.Option(
            "--generalist",
            help="A Hugging Face causal LM folder, or a YAML that describes a server (docs/evaluation.md); repeatable.",
        ),
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            "--baseline",
            help="prevalence, note-length, metadata, payer, tfidf-lr, tfidf-gbm, gbm-structured, lace-and-kin or "
            "encoder; repeatable.",
        ),
    ] = None,
    predictions: Annotated[
        list[Path] | None, typer.Option("--predictions", help="Predictions made elsewhere, in the public schema.")
    ] = None,
    config: Config = None,
) -> None:
    """Score a model on a benchmark, beside baselines, generalists and other predictions, and draw the report.

    Example: `lang1 evaluate ./finetuned ./benchmark ./evaluation --zero-shot ./model --baseline tfidf-lr
    --predictions ./hospitals/truth/riverside`, or against a model that is served here, with two solved examples:
    `lang1 evaluate ./finetuned ./benchmark ./evaluation --generalist ./server.yaml shots=2`
    """
    from lang1.evaluation.settings import EvaluateSettings
    from lang1.study.evaluation_study import evaluation_study

    settings = load(EvaluateSettings, config, overrides)
    spec = evaluation_study(
        model,
        benchmark,
        settings,
        zero_shot=zero_shot or [],
        generalists=generalist or [],
        baselines=baseline or [],
        predictions=predictions or [],
    )
    _run_and_show(spec, out, "evaluate")


app.command()(compare)


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="Finetuned model folder.")],
    notes: Annotated[Path, typer.Argument(help="CSV, Parquet or JSONL with note_id and text.")],
    out: Annotated[Path, typer.Argument(help="CSV or Parquet file to write.")],
    task: Annotated[list[str] | None, typer.Option("--task", help="Only these tasks; repeatable.")] = None,
) -> None:
    """Probabilities for new notes.

    Example: `lang1 predict ./finetuned todays-notes.csv probabilities.csv`
    """
    from lang1.evaluation.predict_notes import predict as run

    run(model, notes, out, tasks=task or None)
    say(f"Done: {out}.")


app.command()(explain)


@app.command()
def study(
    file: Annotated[Path, typer.Argument(help="Study file (YAML), or recipes/NAME of the package.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; stopped and started again, it goes on.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="STEP.field=value", metavar="[STEP.FIELD=VALUE]...")
    ] = None,
    variant: Annotated[
        list[str] | None, typer.Option("--variant", help="A named list of overrides in the file.")
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="List the steps with what is done already, and run nothing.")
    ] = False,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Make this step and what it needs, no others; repeatable.")
    ] = None,
) -> None:
    """Run a study: a graph of steps, resumable, finished steps are not run again.

    A step that fails is named and keeps its log; steps that do not need it go on.

    Example: `lang1 study recipes/demo.yaml ./study finetuned.epochs=2`, or the paper's experiment on a simulated
    hospital: `lang1 study recipes/study-small.yaml ./study`
    """
    from lang1.study.recipes import study_file
    from lang1.study.spec import load_study
    from lang1.study.spec import only as restricted

    spec = load_study(study_file(file), overrides or (), variant or ())
    if only:
        spec = restricted(spec, only, str(file))
    if plan:
        from lang1.study.runner import standing
        from lang1.study.steps import STEP_KINDS

        steps = standing(spec, STEP_KINDS, out, str(file))
        for name, how in steps:
            print(f"{how:<11} {name}")
        say(f"{sum(how == 'done' for _, how in steps)} of {len(steps)} steps are done.")
        return
    _run_and_show(spec, out, str(file), keep_going=True)


@app.command()
def report(
    folder: Annotated[
        Path,
        typer.Argument(
            help="Results folder, results.json, a study's folder or study.json, a model folder (its run, finished or "
            "not), a metrics.jsonl or a corpus folder (its text)."
        ),
    ],
    out: Annotated[
        Path | None, typer.Argument(help="HTML file to write; default report.html beside the input.")
    ] = None,
    figures: Annotated[
        Path | None,
        typer.Option(help="Of a study: also write every figure (SVG, CSV) and table (CSV) into this folder."),
    ] = None,
    tokenizer: Annotated[
        list[Path] | None,
        typer.Option(help="Of a corpus: compare its tokenizer with this one, by note type, instead; repeatable."),
    ] = None,
) -> None:
    """Draw the report again from results.json or study.json, a training run's curves, or what a corpus consists of.

    Example: `lang1 report ./lang1-demo/report ./for-the-board.html`, `lang1 report ./study/report --figures ./figures`
    """
    from lang1.reporting.report import render
    from lang1.reporting.run_report import is_run, render_run
    from lang1.reporting.study_report import is_study, place_of, render_study, write_figures

    if figures is not None and not is_study(folder):
        raise SettingsError(f"--figures takes them from a study, and {folder} holds no study.json.")
    if is_study(folder):
        written = render_study(folder, out or place_of(folder).with_name("report.html"))
        if figures is not None:
            say(f"{len(write_figures(folder, figures)):,} figures and tables: {figures}")
    elif is_run(folder):
        written = render_run(folder, out or folder.parent / f"{folder.name}-run.html")
    elif (folder / "tokenizer" / "tokenizer.json").is_file():
        from lang1.corpus.describe import compare_tokenizers, describe_corpus

        if tokenizer:
            written = out or folder.parent / f"{folder.name}-tokenizers.html"
            compare_tokenizers(
                folder, {path.stem if path.is_file() else path.name: path for path in tokenizer}, written
            )
        else:
            written = out or folder.parent / f"{folder.name}-text.html"
            describe_corpus(folder, written)
    else:
        source = folder / "results.json" if folder.is_dir() else folder
        written = render(source, out or source.with_name("report.html"))
    say(f"Done: {written}.")


@app.command("import")
def import_(
    source: Annotated[Path, typer.Argument(help="Hugging Face folder (safetensors), or a .gguf file.")],
    out: Annotated[Path, typer.Argument(help="Model folder to write.")],
    overrides: Overrides = None,
    config: Config = None,
) -> None:
    """Take over an open model from a local folder, to go on training it or to finetune it.

    Example: `lang1 import ./SmolLM2-135M ./smollm2`
    """
    from lang1.model.config import ImportSettings
    from lang1.model.importing import import_model

    import_model(source, out, load(ImportSettings, config, overrides))
    done(out, f"lang1 finetune {out} ./benchmark ./finetuned")


@app.command()
def export(
    model: Annotated[Path, typer.Argument(help="Model folder made by lang1.")],
    out: Annotated[Path, typer.Argument(help="Folder to write in the Hugging Face layout.")],
    step: Annotated[
        int | None, typer.Option(help="A milestone of the run instead of its end; the run may be unfinished.")
    ] = None,
) -> None:
    """Write a folder that `transformers` loads: weights, configuration, tokenizer, card.

    Example: `lang1 export ./finetuned ./for-transformers` or `lang1 export ./model ./at-20000 --step 20000`
    """
    if step is not None:
        from lang1.training.milestones import export_milestone

        export_milestone(model, step, out)
    else:
        from lang1.model.store import export_model

        export_model(model, out)
    say(f"Done: {out}. Load it with AutoModelForCausalLM.from_pretrained('{out}').")


@app.command()
def demo(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="STEP.field=value", metavar="[STEP.FIELD=VALUE]...")
    ] = None,
    data: Annotated[str, typer.Option(help="simulated, or diabetes-130 (real encounters).")] = "simulated",
    out: Annotated[
        Path | None, typer.Option(help="Folder to write; default ./lang1-demo or ./lang1-demo-DATA.")
    ] = None,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="The same path in under 90 seconds, too small to learn much.")
    ] = False,
    full: Annotated[
        bool, typer.Option("--full", help="All rows of the real data instead of the stated sample.")
    ] = False,
) -> None:
    """From records to the report in minutes: no network, no arguments needed. Stopped, it goes on where it was.

    Example: `lang1 demo` or `lang1 demo --data diabetes-130`
    """
    from lang1.study.recipes import demo_study

    spec, default_out = demo_study(data, smoke=smoke, full=full, overrides=overrides or [])
    _run_and_show(spec, out or default_out, f"demo {data}")


@app.command()
def doctor() -> None:
    """Versions, devices, and which extras are present and what each would enable.

    Example: `lang1 doctor`
    """
    from lang1.cli.doctor import examine

    for line in examine():
        print(line)


def _run_and_show(spec: Any, out: Path, source: str, *, keep_going: bool = False) -> None:
    from lang1.study.runner import StudyFailed, run_study
    from lang1.study.steps import STEP_KINDS

    try:
        done = run_study(spec, STEP_KINDS, out, source, keep_going=keep_going)
    except StudyFailed as error:  # what is there is shown all the same
        _show(error.done, out)
        raise
    if not _show(done, out):
        say(f"Done: {out}.")


def _show(done: Any, out: Path) -> bool:
    """Closing lines of a study's reports; False where it has none."""
    from lang1.common.artefact import read_json
    from lang1.reporting.terminal import closing_table

    for folder in done.values():
        if folder.kind == "results":
            print_table(closing_table(read_json(folder.path / "results.json")))
            say(f"Report: {folder.path / 'report.html'}  (numbers: {folder.path / 'results.json'})")
        if folder.kind == "study":
            say(f"Report: {folder.path / 'report.html'}  (numbers: {folder.path / 'study.json'})")
    return any(folder.kind in ("results", "study") for folder in done.values())


if __name__ == "__main__":
    main()
