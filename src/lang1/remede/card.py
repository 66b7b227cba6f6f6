"""Task cards: everything that defines a task and can be edited without touching code (``cards/TASK.yaml``)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, model_validator

from lang1.common.errors import SettingsError
from lang1.common.settings import Settings, read_yaml, validate_settings
from lang1.records.schema import OPTIONAL_TABLES, TABLES
from lang1.remede.inputs import Inputs
from lang1.remede.names import CARDS, check_known, shipped_cards
from lang1.text.questions import render_question

__all__ = ["Card", "load_card", "read_card", "shipped_cards", "write_card"]


class Prediction(Settings):
    """When the task is asked.

    Attributes:
        earliest: a note that was available before this moment is read at it.
        in_hospital: the patient must be alive and in hospital then; otherwise the row is left out, counted.
        latest_hours_after_discharge: notes that became available later are too late; null for no limit.
        from_hours: the card's note is the first of its type that became available at least so many hours after
            admission, and
        before_hours: less than so many; null for no bound. So one question can be asked again day by day.
        words: the rule for a reader.
    """

    earliest: Literal["admission", "discharge"]
    in_hospital: bool
    latest_hours_after_discharge: int | None = Field(default=None, ge=0)
    from_hours: int | None = Field(default=None, ge=0)
    before_hours: int | None = Field(default=None, ge=1)
    words: str

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.before_hours is not None and self.before_hours <= (self.from_hours or 0):
            raise ValueError(f"before_hours {self.before_hours} must be later than from_hours {self.from_hours or 0}")
        return self


class Exclusions(Settings):
    """Index stays that the task does not ask about; departments match by a word in their name, case ignored."""

    dispositions: tuple[str, ...] = ()
    departments: tuple[str, ...] = ()


class Censoring(Settings):
    """Which stays lie far enough inside the complete data to count, whatever happened.

    Attributes:
        anchor: the moment from which ``observation_days`` are counted.
        tables: whose completeness is asked; the first must be declared, the others count where they are.
        observation_days: days after the anchor that must be complete.
        open_stay_allowance_days: days more where the extract was cut by discharge time.
        words: the rule for a reader.
    """

    anchor: Literal["admission", "discharge"]
    tables: tuple[Literal["encounters", "diagnoses", "claims"], ...] = Field(min_length=1)
    observation_days: int = Field(ge=0)
    open_stay_allowance_days: int = Field(default=0, ge=0)
    words: str


class Predicate(Settings):
    """A rule of the card's own: in plain words, and as SQL on the row ``asked`` that is true for the rows that stay."""

    words: str
    keep: str


class Support(Settings):
    """What the records must hold for the task to mean what the card says.

    Attributes:
        times: whether times must be true between encounters (``across``) or within one only (``within_stay``); asked
            by rule ``sql``, the other rules know it.
        needs: tables, or columns as ``table.column``, that must hold a value; without one the task is refused, or
            marked where ``mark_unsupported`` says so.
        warns: likewise, but a lack only makes a notice.
        words: what else a reader should ask of an extract.
    """

    times: Literal["across", "within_stay"] = "across"
    needs: tuple[str, ...] = ()
    warns: tuple[str, ...] = ()
    words: str = ""

    @model_validator(mode="after")
    def _there(self) -> Self:
        tables = TABLES | OPTIONAL_TABLES
        for name in (*self.needs, *self.warns):
            table, _, column = name.partition(".")
            if table not in tables:
                raise ValueError(f"'{name}': no such table; tables are {', '.join(tables)}")
            if column and column not in tables[table].names:
                raise ValueError(f"'{name}': no such column; {table} has {', '.join(tables[table].names)}")
        return self


class OptionForms(Settings):
    """How the options of refitted bins read: ``{low}`` and ``{high}`` are the bounds, both included."""

    range: str
    single: str
    last: str

    def texts(self, cut_points: Sequence[int]) -> tuple[str, ...]:
        """The option texts of integer bins whose upper bounds are ``cut_points``."""
        lows = [0, *(point + 1 for point in cut_points[:-1])]
        texts = [
            (self.single if low == high else self.range).format(low=low, high=high)
            for low, high in zip(lows, cut_points, strict=True)
        ]
        return (*texts, self.last.format(high=cut_points[-1]))


class Card(Settings):
    """One task: its question, label rule, prediction time, exclusions, censoring and caveats.

    Attributes:
        task: the name: lower-case letters, digits and underscores.
        rule: which rule computes the task (a module in ``remede/tasks/``); null for the one of the task's own name.
        based_on: the shipped card that this one was made from, with what differs.
        sql: for rule ``sql``, the file beside the card that holds the query (``docs/tasks.md``).
        query: that file's text; filled in when the card is loaded, so that a benchmark keeps it.
        eligibility: rules of the card's own that read only what is available at the prediction time.
        observability: rules that look ahead, whether the label can be known; rows left out are counted and compared.
        policies: named ways with competing events, which look ahead; counted and compared likewise.
        supported_by: what the records must hold.
        note_type: the type of the note that is read (``records/schema.py``).
        note_signed: only signed notes count, from the moment of signing.
        inputs: several notes instead of that one, as of the time that it sets; null for that note alone.
        question_template: a name in ``text.questions.QUESTIONS``, or a question in one's own words that ends in ``?``.
        options: class names in class order.
        cut_points: for binned tasks, the upper bounds (included) of all classes but the last.
        quantiles: where cut-points fall when they are fitted.
        horizon_days: length of the outcome window after the index, where it has one.
        constants: numbers that only this task's rule knows (``remede/tasks/TASK.py`` names them).
        fields_known_at: structured fields that a baseline may read at the prediction time; null for those known when
            the note is: of admission, and with a discharge summary of discharge too.
        fields_left_out: prefixes of fields that would give the answer away.
    """

    task: str = Field(pattern="^[a-z][a-z0-9_]*$")
    title: str
    rule: str | None = None
    based_on: str | None = None
    sql: str | None = None
    query: str | None = None
    kind: Literal["binary", "multiclass"]
    definition: str
    note_type: str
    note_signed: bool = False
    inputs: Inputs | None = None
    question_template: str
    options: tuple[str, ...] = Field(min_length=2)
    option_forms: OptionForms | None = None
    cut_points: tuple[int, ...] | None = None
    quantiles: tuple[float, ...] | None = None
    horizon_days: int | None = Field(default=None, ge=1)
    prediction: Prediction
    exclusions: Exclusions = Exclusions()
    eligibility: tuple[Predicate, ...] = ()
    observability: tuple[Predicate, ...] = ()
    policies: tuple[Predicate, ...] = ()
    censoring: Censoring
    constants: dict[str, Any] = {}
    fields_known_at: tuple[Literal["admission", "discharge"], ...] | None = None
    fields_left_out: tuple[str, ...] = ()
    label_source: str
    supported_by: Support = Support()
    caveats: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if (self.rule_name == "sql") != (self.query is not None):
            raise ValueError("'rule: sql' and 'sql: FILE.sql' go together")
        cuts = self.cut_points
        if self.kind == "binary" and (len(self.options) != 2 or cuts is not None):
            raise ValueError("a binary task has two options and no cut_points")
        if cuts is not None:
            if any(b <= a for a, b in itertools.pairwise(cuts)) or not cuts or cuts[0] < 0:
                raise ValueError(f"cut_points {list(cuts)} must rise from 0 or more")
            if len(self.options) != len(cuts) + 1:
                raise ValueError(
                    f"{len(cuts)} cut_points make {len(cuts) + 1} classes, {len(self.options)} options given"
                )
        return self

    @property
    def rule_name(self) -> str:
        """Which rule computes the task."""
        return self.rule or self.task

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return len(self.options)

    @property
    def known_at(self) -> tuple[str, ...]:
        """When the structured fields are known that a baseline may read."""
        if self.fields_known_at is not None:
            return self.fields_known_at
        return ("admission", "discharge") if self.note_type == "discharge_summary" else ("admission",)

    def question(self) -> str:
        """The rendered question with its lettered options."""
        return render_question(self.question_template, self.options)

    def with_cut_points(self, cut_points: Sequence[int], options: Sequence[str] | None = None) -> Card:
        """The same card with other bins.

        Raises:
            SettingsError: the card has no words for such options.
        """
        if options is None:
            if self.option_forms is None:
                raise SettingsError(f"{self.task}: the card has no option_forms, so its bins cannot be refitted.")
            options = self.option_forms.texts(cut_points)
        values = self.model_dump(mode="json") | {"cut_points": list(cut_points), "options": list(options)}
        return validate_settings(Card, values, f"{self.task}.yaml")


def load_card(task: str, card_dir: Path | None = None, edits: Mapping[str, Any] | None = None) -> Card:
    """The card of a task: shipped, edited by ``card_dir/TASK.yaml`` and then by ``edits``, field by field.

    A card of ``card_dir`` with a name that is not shipped is a task of its own: complete, or ``based_on`` a shipped
    card with a title of its own and whatever else differs.

    Raises:
        SettingsError: an unknown task or field, or a value that the field cannot take.
    """
    check_known(task, card_dir)
    own = card_dir / f"{task}.yaml" if card_dir is not None else None
    if task in shipped_cards():
        values, source = _whole(CARDS / f"{task}.yaml"), f"cards/{task}.yaml"
        if own is not None and own.exists():
            edited = _read(own)
            if "based_on" in edited:
                raise SettingsError(f"{own}: it edits the shipped card of that name; leave out based_on, or rename it.")
            values, source = _merged(values, edited), str(own)
    else:
        assert own is not None
        values, source = _whole(own), str(own)
    if edits:
        values, source = _merged(values, _with_files(dict(edits), card_dir or Path(), f"cards.{task}")), f"cards.{task}"
    card = validate_settings(Card, values, source)
    if card.task != task:
        raise SettingsError(f"{source}: 'task' is '{card.task}', expected '{task}'.")
    return card


def _whole(file: Path) -> dict[str, Any]:
    """The fields of a card file, those of the shipped card that it is based on included."""
    values = _read(file)
    base = values.get("based_on")
    if base is None:
        return values
    if base not in shipped_cards() or base == file.stem:
        raise SettingsError(f"{file}: 'based_on' is '{base}', expected one of {', '.join(shipped_cards())}.")
    if "title" not in values:
        raise SettingsError(f"{file}: 'title' is missing: reports need to tell it from '{base}'.")
    inherited = _whole(CARDS / f"{base}.yaml")
    return _merged({**inherited, "task": file.stem, "rule": inherited.get("rule") or base}, values)


def _read(file: Path) -> dict[str, Any]:
    return _with_files(read_yaml(file), file.parent, str(file))


def _with_files(values: dict[str, Any], folder: Path, source: str) -> dict[str, Any]:
    """Fields of a card with the text of the SQL file that they name, and with paths that do not hang on its folder."""
    own = values.get("constants")
    if isinstance(own, Mapping) and isinstance(tables := own.get("planned_tables"), str):
        values = {**values, "constants": {**own, "planned_tables": str(folder / tables)}}
    if not isinstance(name := values.get("sql"), str):
        return values
    try:
        return {**values, "query": (folder / name).read_text(encoding="utf-8")}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{source}: 'sql' is '{name}', which cannot be read: {folder / name}.") from error


def read_card(file: Path) -> Card:
    """A card as a benchmark folder keeps it."""
    return validate_settings(Card, read_yaml(file), str(file))


def write_card(file: Path, card: Card) -> None:
    """Write a card, all fields, in the order of the class."""
    text = yaml.safe_dump(card.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)
    file.write_text(text, encoding="utf-8")


def _merged(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in top.items():
        inner = result.get(key)
        both = isinstance(value, Mapping) and isinstance(inner, Mapping)
        result[key] = _merged(inner, value) if both else value  # type: ignore[arg-type]
    return result
