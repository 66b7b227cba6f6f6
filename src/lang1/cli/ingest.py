"""``lang1 ingest FORMAT SOURCE OUT``: one command a source format."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from lang1.cli.parts import Config, Overrides, done, load, print_left_out
from lang1.records.readers import FORMATS, Format

ingest = typer.Typer(
    help="Take a hospital's extract into a records folder. Example: `lang1 ingest tables --map map.yaml ./records`",
    no_args_is_help=True,
)


@ingest.command("tables")
def ingest_tables_command(
    out: Annotated[Path | None, typer.Argument(help="Records folder to write.")] = None,
    overrides: Overrides = None,
    map_file: Annotated[Path | None, typer.Option("--map", help="YAML mapping of files and columns.")] = None,
    init: Annotated[
        list[Path] | None, typer.Option("--init", help="Print a commented mapping for these files.")
    ] = None,
) -> None:
    """Any CSV or Parquet files for the five tables, by a YAML mapping.

    Example: `lang1 ingest tables --init adt.csv --init notes.csv > map.yaml`, edit it, then
    `lang1 ingest tables --map map.yaml ./records`
    """
    from lang1.records.readers.tables import ingest_tables, init_mapping

    if init:
        print(init_mapping(init))
        return
    if map_file is None or out is None:
        raise typer.BadParameter("give --map FILE and the folder to write, or --init FILE to start a mapping.")
    ingest_tables(map_file, out, overrides or [])
    print_left_out(out)
    done(out, f"lang1 remede build {out} ./benchmark")


@ingest.command("labelled")
def ingest_labelled_command(
    table: Annotated[Path, typer.Argument(help="CSV or Parquet with a note, label columns and a patient id.")],
    out: Annotated[Path, typer.Argument(help="Records folder to write.")],
    overrides: Overrides = None,
    config: Config = None,
) -> None:
    """One table of notes with labels, for data that has no encounters.

    Example: `lang1 ingest labelled notes.csv ./records note=text patient=mrn labels.readmission=readmit30 order=seq`
    """
    from lang1.records.readers.labelled import LabelledSettings, ingest_labelled

    ingest_labelled(table, out, load(LabelledSettings, config, overrides))
    print_left_out(out)
    done(out, f"lang1 remede build {out} ./benchmark")


@ingest.command("diabetes-130")
def ingest_diabetes_command(
    out: Annotated[Path, typer.Argument(help="Records folder to write.")],
    overrides: Overrides = None,
    config: Config = None,
) -> None:
    """Real encounters of the Diabetes 130-US hospitals data, which ships with lang1 (CC BY 4.0).

    Example: `lang1 ingest diabetes-130 ./diabetes`
    """
    from lang1.records.readers.diabetes130 import Diabetes130Settings, ingest_diabetes130

    ingest_diabetes130(out, load(Diabetes130Settings, config, overrides))
    print_left_out(out)
    done(out, f"lang1 remede build {out} ./benchmark")


def _command(name: str, reader: Format) -> Callable[..., None]:
    def run(
        source: Annotated[Path, typer.Argument(help="Folder or file of the extract.")],
        out: Annotated[Path, typer.Argument(help="Records folder to write.")],
        overrides: Overrides = None,
        config: Config = None,
    ) -> None:
        module = importlib.import_module(f"lang1.records.readers.{reader.module}")
        getattr(module, reader.function)(source, out, load(getattr(module, reader.settings), config, overrides))
        print_left_out(out)
        done(out, f"lang1 remede build {out} ./benchmark")

    run.__doc__ = f"{reader.summary}\n\nExample: `{reader.example}`"
    return run


for _name, _reader in FORMATS.items():
    ingest.command(_name)(_command(_name, _reader))
