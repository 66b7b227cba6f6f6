"""The runner: order, skipping, resuming, setting aside, and errors that name the step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lang1.common.artefact import new_folder, open_folder, partial_path
from lang1.common.errors import ArtefactError, InputError, SettingsError
from lang1.common.settings import Settings
from lang1.study.runner import Inputs, StepFailed, StepKind, StudyFailed, run_study, standing
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


class Gather(Settings):
    failed: list[str] = []


def graph(**settings: dict[str, str]) -> StudySpec:
    """Two lines of work that need nothing of each other, and what gathers both: a1 → a2, b1 → b2, both → report."""
    steps: dict[str, Any] = {}
    for line in ("a", "b"):
        first = {"step": "write", "settings": settings.get(f"{line}1", {"text": line})}
        second = {"step": "join", "from": {"parts": [f"{line}1"]}, "settings": settings.get(f"{line}2", {"text": "2"})}
        steps |= {f"{line}1": first, f"{line}2": second}
    steps["report"] = {"step": "gather", "from": {"parts": ["a2", "b2"]}}
    return StudySpec.model_validate({"steps": steps})


class Gathering(Kinds):
    """Besides, a kind that gathers, and a moment at which the run is killed: before, within or after a step."""

    def __init__(self) -> None:
        super().__init__()
        self.kill: tuple[str, str] | None = None
        self.breaks = 0  # parts of the report that break, for reasons of its own
        self.kinds = {
            "write": StepKind(Word, {}, self._killed),
            "join": StepKind(Word, {"parts": True}, self._killed),
            "gather": StepKind(Gather, {"parts": True}, self._report, gathers=True),
        }

    def _killed(self, inputs: Inputs, settings: Any, out: Path) -> None:
        if self.kill == (out.name, "within"):
            partial_path(out).mkdir(exist_ok=True)
            (partial_path(out) / "half").write_text("written")
            raise KeyboardInterrupt
        self._run(inputs, settings, out)
        if self.kill == (out.name, "after"):
            raise KeyboardInterrupt

    def _report(self, inputs: Inputs, settings: Any, out: Path) -> None:
        self.ran.append(out.name)
        parts = inputs["parts"]
        assert isinstance(parts, list)
        with new_folder(out, "study") as draft:
            found = {"parts": {p.name: (p / "text").read_text() for p in parts}, "failed": settings.failed}
            (draft.path / "study.json").write_text(json.dumps(found))
            draft.counts = {"failed": len(settings.failed) + self.breaks}


def told(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "report" / "study.json").read_text())
    return found


@pytest.mark.parametrize("fail", ["bug", "input"])
def test_a_step_that_fails_does_not_lose_the_others(
    tmp_path: Path, fail: str, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = Gathering()
    spec = graph(a1={"fail": fail})
    with pytest.raises(StudyFailed, match="1 of 5 steps failed, 1 that need them left out: step 'a1'") as caught:
        run_study(spec, kinds.kinds, tmp_path, keep_going=True)
    assert kinds.ran == ["b1", "b2", "report"] and list(caught.value.done) == ["b1", "b2", "report"]
    words = "boom" if fail == "bug" else "bad row 3"
    assert words in (tmp_path / ".state" / "a1.log").read_text()
    first, second = told(tmp_path)["failed"]
    assert "step 'a1'" in first and words in first and second == "step 'a2': not made, since 'a1' failed"
    assert told(tmp_path)["parts"] == {"b2": "b2"}
    assert "a2: left out, since 'a1' failed" in capsys.readouterr().err
    # Mended and run again: what failed, what needs it, and the report; its log is gone.
    run_study(graph(), kinds.kinds, tmp_path, keep_going=True)
    assert kinds.ran[3:] == ["a1", "a2", "report"]
    assert told(tmp_path) == {"parts": {"a2": "a2", "b2": "b2"}, "failed": []}
    assert not (tmp_path / ".state" / "a1.log").exists()


def test_a_report_of_which_a_part_broke_is_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kinds = Gathering()
    kinds.breaks = 1
    with pytest.raises(StudyFailed, match="1 of 5 steps failed: step 'report': a part of it broke") as caught:
        run_study(graph(), kinds.kinds, tmp_path)
    assert "report" in caught.value.done
    assert dict(standing(graph(), kinds.kinds, tmp_path))["report"] == "failed"
    kinds.breaks = 0
    run_study(graph(), kinds.kinds, tmp_path)
    assert kinds.ran[-2:] == ["report", "report"]
    assert "report: a part of it broke when it was made; the old folder is kept" in capsys.readouterr().err
    assert dict(standing(graph(), kinds.kinds, tmp_path))["report"] == "done"
    run_study(graph(), kinds.kinds, tmp_path)
    assert kinds.ran.count("report") == 2
    # Steps that failed before it are no reason: as long as they fail, the report is what can be made.
    spec = graph(a1={"fail": "bug"})
    for _ in range(2):
        with pytest.raises(StudyFailed):
            run_study(spec, kinds.kinds, tmp_path, keep_going=True)
    assert kinds.ran.count("report") == 3


def test_a_report_of_which_nothing_is_left_fails_itself(tmp_path: Path) -> None:
    spec = graph(a1={"fail": "bug"}, b2={"fail": "input"})
    with pytest.raises(StudyFailed, match=r"3 of 5 steps failed.*nothing is left of its parts"):
        run_study(spec, Gathering().kinds, tmp_path, keep_going=True)


def test_a_folder_that_is_damaged_is_named_by_its_step(tmp_path: Path) -> None:
    kinds = Gathering()
    run_study(graph(), kinds.kinds, tmp_path)
    (tmp_path / "a1" / "manifest.json").write_text("{")
    with pytest.raises(ArtefactError, match=r"step 'a1': .*manifest\.json is not valid JSON"):
        run_study(graph(a2={"text": "x"}), kinds.kinds, tmp_path)


STEPS = ("a1", "a2", "b1", "b2")


@pytest.mark.parametrize("moment", ["within", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_and_run_again_gives_the_same_report(tmp_path: Path, step: str, moment: str) -> None:
    whole = Gathering()
    run_study(graph(), whole.kinds, tmp_path / "whole", keep_going=True)
    kinds = Gathering()
    kinds.kill = (step, moment)
    with pytest.raises(KeyboardInterrupt):
        run_study(graph(), kinds.kinds, tmp_path / "out", keep_going=True)
    assert not (tmp_path / "out" / "report").exists()
    kinds.kill = None
    run_study(graph(), kinds.kinds, tmp_path / "out", keep_going=True)
    assert sorted(kinds.ran) == sorted([*STEPS, "report"])  # nothing finished was made again
    assert (tmp_path / "out" / "report" / "study.json").read_bytes() == (
        tmp_path / "whole" / "report" / "study.json"
    ).read_bytes()


def test_the_plan_says_what_is_done_and_runs_nothing(tmp_path: Path) -> None:
    kinds = Gathering()
    assert dict(standing(graph(), kinds.kinds, tmp_path)) == dict.fromkeys([*STEPS, "report"], "to do")
    assert kinds.ran == [] and not any(tmp_path.iterdir())
    with pytest.raises(StudyFailed):
        run_study(graph(b1={"fail": "bug"}), kinds.kinds, tmp_path, keep_going=True)
    found = dict(standing(graph(b1={"fail": "bug"}), kinds.kinds, tmp_path))
    assert found == {"a1": "done", "a2": "done", "b1": "failed", "b2": "to do", "report": "to do"}
    found = dict(standing(graph(a2={"text": "x"}), kinds.kinds, tmp_path))
    assert (found["a1"], found["a2"]) == ("done", "changed")
    kinds.kill = ("b2", "within")
    with pytest.raises(KeyboardInterrupt):
        run_study(graph(), kinds.kinds, tmp_path, keep_going=True)
    assert dict(standing(graph(), kinds.kinds, tmp_path))["b2"] == "unfinished"
    kinds.kill = None
    run_study(graph(), kinds.kinds, tmp_path, keep_going=True)
    assert set(dict(standing(graph(), kinds.kinds, tmp_path)).values()) == {"done"}
