"""The runner: order, skipping, resuming, setting aside, and errors that name the step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lang1.common.artefact import new_folder, open_folder
from lang1.common.errors import InputError, SettingsError
from lang1.common.settings import Settings
from lang1.study.runner import Inputs, StepFailed, StepKind, run_study
from lang1.study.spec import StudySpec, load_study


class Word(Settings):
    text: str = "a"
    fail: str = ""


class Kinds:
    """Two toy kinds: `write` makes a text file, `join` joins its inputs'. Counts what really ran."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.kinds = {
            "write": StepKind(Word, {}, self._run),
            "join": StepKind(Word, {"parts": True}, self._run),
        }

    def _run(self, inputs: Inputs, settings: Any, out: Path) -> None:
        if settings.fail == "input":
            raise InputError("bad row 3")
        if settings.fail == "bug":
            raise RuntimeError("boom")
        self.ran.append(out.name)
        parts = inputs.get("parts", [])
        assert isinstance(parts, list)
        text = "".join((p / "text").read_text() for p in parts) + settings.text
        with new_folder(out, "records") as draft:
            (draft.path / "text").write_text(text)


def spec(**settings: dict[str, str]) -> StudySpec:
    return StudySpec.model_validate(
        {
            "steps": {
                "both": {"step": "join", "from": {"parts": ["one", "two"]}, "settings": settings.get("both", {})},
                "one": {"step": "write", "settings": settings.get("one", {})},
                "two": {"step": "write", "settings": settings.get("two", {"text": "b"})},
            }
        }
    )


def test_runs_in_order_of_need_and_skips_what_is_finished(tmp_path: Path) -> None:
    kinds = Kinds()
    run_study(spec(), kinds.kinds, tmp_path)
    assert kinds.ran == ["one", "two", "both"]
    assert (tmp_path / "both" / "text").read_text() == "aba"
    run_study(spec(), kinds.kinds, tmp_path)
    assert len(kinds.ran) == 3


def test_a_change_reruns_what_depends_on_it_and_keeps_the_old(tmp_path: Path) -> None:
    kinds = Kinds()
    run_study(spec(), kinds.kinds, tmp_path)
    run_study(spec(one={"text": "x"}), kinds.kinds, tmp_path)
    assert kinds.ran == ["one", "two", "both", "one", "both"]
    assert (tmp_path / "both" / "text").read_text() == "xba"
    kept = sorted(p.name.split("-")[0] for p in (tmp_path / ".superseded").iterdir())
    assert kept == ["both", "one"]


def test_goes_on_after_a_failure_without_running_finished_steps_again(tmp_path: Path) -> None:
    kinds = Kinds()
    with pytest.raises(StepFailed, match="step 'two' broke: RuntimeError: boom") as caught:
        run_study(spec(two={"fail": "bug"}), kinds.kinds, tmp_path)
    assert "\n" not in str(caught.value)
    assert "RuntimeError: boom" in (tmp_path / ".state" / "two.log").read_text()
    run_study(spec(), kinds.kinds, tmp_path)
    assert kinds.ran == ["one", "two", "both"]
    assert open_folder(tmp_path / "both", "records")


def test_a_refusal_keeps_its_kind_and_names_the_step(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="step 'one': bad row 3"):
        run_study(spec(one={"fail": "input"}), Kinds().kinds, tmp_path)


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ({"a": {"step": "wirte"}}, "unknown kind 'wirte'"),
        ({"a": {"step": "join"}}, "needs 'from: {parts"),
        ({"a": {"step": "write", "from": {"part": "b"}}}, "takes no input 'part'"),
        ({"a": {"step": "write", "settings": {"txt": 1}}}, "unknown setting 'txt'; did you mean 'text'"),
        ({"a": {"step": "join", "from": {"parts": ["nowhere"]}}}, "neither a step"),
        (
            {"a": {"step": "join", "from": {"parts": ["b"]}}, "b": {"step": "join", "from": {"parts": ["a"]}}},
            "in a circle: a → b → a",
        ),
    ],
)
def test_a_bad_study_is_refused_before_anything_runs(tmp_path: Path, steps: dict[str, Any], words: str) -> None:
    kinds = Kinds()
    with pytest.raises(SettingsError, match=words):
        run_study(StudySpec.model_validate({"steps": steps}), kinds.kinds, tmp_path, "s.yaml")
    assert kinds.ran == []


def test_variants_and_overrides(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("steps: {one: {step: write, settings: {text: a}}}\nvariants: {other: [one.text=b]}\n")
    assert load_study(file, [], ["other"]).steps["one"].settings == {"text": "b"}
    assert load_study(file, ["one.text=c"], ["other"]).steps["one"].settings == {"text": "c"}
    with pytest.raises(SettingsError, match="no variant 'x'; this study has: other"):
        load_study(file, [], ["x"])
    with pytest.raises(SettingsError, match="no step 'two'"):
        load_study(file, ["two.text=c"])
