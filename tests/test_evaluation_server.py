"""Served models: every shape read alike, and whatever a server does, nothing lost and nothing scored twice."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from evaluation_toy import make_benchmark, make_records
from server_stub import Stub, served, shares_of

from lang1.common.artefact import partial_path
from lang1.common.errors import InputError, SettingsError
from lang1.evaluation.asking import train_shares
from lang1.evaluation.examples import asked
from lang1.evaluation.journal import Journal
from lang1.evaluation.predict_benchmark import evaluate_generalist
from lang1.evaluation.predictions import open_predictions
from lang1.evaluation.replies import doubts
from lang1.evaluation.results import collect
from lang1.evaluation.scorers.server_client import Client, Pace, Purse, ServerError
from lang1.evaluation.scorers.server_settings import ServerSettings, check_address, read_server, server_print
from lang1.evaluation.scorers.server_shapes import (
    BadAnswer,
    NoLogProbabilities,
    echoed,
    next_tokens,
    parse_letter,
    read_letters,
)
from lang1.evaluation.settings import EvaluateSettings
from lang1.remede.benchmark import Benchmark

LIMIT = 6
SETTINGS = EvaluateSettings(limit=LIMIT, swap_examples=3, tasks=["readmission", "length_of_stay"])
EXAMPLES = 2 * LIMIT


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    place = tmp_path_factory.mktemp("served")
    return make_benchmark(make_records(place / "records", patients=120), place / "benchmark")


def describe(place: Path, **values: Any) -> Path:
    file = place / "server.yaml"
    file.write_text(yaml.safe_dump({"url": "http://127.0.0.1:9/v1", "model": "org/stub-7b", "backoff": 0.0, **values}))
    return file


def run(bench: Benchmark, place: Path, stub: Stub, settings: EvaluateSettings = SETTINGS, **values: Any) -> Any:
    with served(stub) as url:
        evaluate_generalist(describe(place, url=url, **values), bench.folder.path, place / "out", settings)
    return open_predictions(place / "out")


def expected(bench: Benchmark, settings: EvaluateSettings = SETTINGS) -> dict[str, np.ndarray]:
    chosen = asked(bench, settings)
    questions = chosen.questions()
    found = {}
    for group in chosen.groups():
        for item in group.items:
            shares = np.array(shares_of(group.text + questions[item.task]))
            found[item.example_id] = shares / shares.sum()
    return found


@pytest.mark.parametrize(
    ("mode", "shape"),
    [
        ("completions", "openai"),
        ("completions", "content"),
        ("completions", "probs"),
        ("echo", "openai"),
        ("chat", "openai"),
    ],
)
def test_every_shape_gives_the_same_answers(bench: Benchmark, tmp_path: Path, mode: str, shape: str) -> None:
    found = run(bench, tmp_path, Stub(shape=shape), mode=mode, price_in=2.0, price_out=8.0, concurrency=3)
    right = expected(bench)
    assert (found.model, found.regime) == ("stub-7b", "zero-shot")
    assert set(found.table["example_id"].to_pylist()) == set(right)
    for example, row in zip(
        found.table["example_id"].to_pylist(), found.table["probabilities"].to_pylist(), strict=True
    ):
        # The wording asks for a letter in a chat, so that its prompts differ a little in length.
        assert row == pytest.approx(right[example], abs=1e-6 if mode != "chat" else 0.1)
    assert found.table["option_mass"].to_pylist() == pytest.approx([0.9] * EXAMPLES)
    extra = found.folder.manifest.extra
    about = extra["answering"]["readmission"]
    assert (about["examples"], about["unparsed"], about["bounded"]) == (LIMIT, 0.0, 0)
    # This server does not lean to a letter: turned round, the same answers.
    assert about["swap"]["examples"] == 3 and about["swap"]["mean_absolute_difference"] < 1e-6
    cost = extra["cost"]
    assert cost["money"] == pytest.approx((2 * cost["prompt_tokens"] + 8 * cost["answer_tokens"]) / 1e6)
    assert cost["prompt_tokens"] > 0 and cost["currency"] == "USD"


def test_a_server_that_fails_in_every_way_loses_and_repeats_nothing(bench: Benchmark, tmp_path: Path) -> None:
    ways = [500, "garbage", "stall", (429, {"retry-after": "0"}), 503]

    def plan(number: int, body: dict[str, Any]) -> Any:
        if number == 4:
            return "no logprobs"  # once: a mishap
        return ways[(number // 2) % len(ways)] if number % 2 else None

    stub = Stub(plan)
    found = run(bench, tmp_path, stub, retries=12, concurrency=3)
    right = expected(bench)
    ids = found.table["example_id"].to_pylist()
    assert sorted(ids) == sorted(right)
    for example, row in zip(ids, found.table["probabilities"].to_pylist(), strict=True):
        assert row == pytest.approx(right[example], abs=1e-6)
    keys = [json.loads(line)["key"] for line in (tmp_path / "out/answers.jsonl").read_text().splitlines()[1:]]
    counts = Counter(key for key in keys if key)
    assert set(counts.values()) == {1} and len(counts) == EXAMPLES + 6


def test_a_run_that_dies_half_way_goes_on_and_asks_only_the_rest(bench: Benchmark, tmp_path: Path) -> None:
    dying = Stub(lambda number, body: "stall" if number >= 7 else None)
    with pytest.raises(ServerError, match="kept: run the same command again"):
        run(bench, tmp_path, dying, retries=1, concurrency=1)
    journal = partial_path(tmp_path / "out") / "answers.jsonl"
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"key": "given:torn", "row": [')  # the machine went down while it wrote
    healthy = Stub()
    found = run(bench, tmp_path, healthy, retries=1, concurrency=2)
    assert not set(healthy.answered) & set(dying.answered)
    assert len(dying.answered) + len(healthy.answered) == EXAMPLES + 6
    assert (tmp_path / "out/answers.jsonl").read_bytes().startswith(whole)
    right = expected(bench)
    for example, row in zip(
        found.table["example_id"].to_pylist(), found.table["probabilities"].to_pylist(), strict=True
    ):
        assert row == pytest.approx(right[example], abs=1e-6)


def test_another_question_does_not_go_on_with_old_answers(bench: Benchmark, tmp_path: Path) -> None:
    with pytest.raises(ServerError):
        run(bench, tmp_path, Stub(lambda number, body: "stall" if number >= 5 else None), retries=0, concurrency=1)
    fresh = Stub()
    run(bench, tmp_path, fresh, SETTINGS.model_copy(update={"note_budget": 5}))
    assert len(fresh.answered) == EXAMPLES + 6


def test_the_cap_stops_before_it_is_exceeded_and_a_higher_one_goes_on(bench: Benchmark, tmp_path: Path) -> None:
    # A hundred words a prompt or so, 1 a token.
    prices: dict[str, Any] = {"price_in": 1e6, "price_out": 1e6, "concurrency": 3}
    first, second = Stub(), Stub()
    with pytest.raises(ServerError, match="raise most_cost") as stopped:
        run(bench, tmp_path, first, most_cost=1_000.0, **prices)
    assert "\n" not in str(stopped.value)
    lines = (partial_path(tmp_path / "out") / "answers.jsonl").read_text().splitlines()[1:]
    spent = sum(json.loads(line)["cost"] for line in lines)
    assert 0 < spent <= 1_000 and len(lines) == len(first.answered)
    found = run(bench, tmp_path, second, most_cost=100_000.0, **prices)
    assert not set(first.answered) & set(second.answered)
    money = found.folder.manifest.extra["cost"]["money"]
    assert spent < money <= 100_000
    assert money == pytest.approx(sum(len(p.split()) + 1 for p in first.answered + second.answered))


def test_what_cannot_be_read_follows_its_rule_and_is_never_a_no(bench: Benchmark, tmp_path: Path) -> None:
    chosen = asked(bench, SETTINGS)
    for rule, mode in (("train", "completions"), ("uniform", "sample")):
        place = tmp_path / mode
        place.mkdir()
        found = run(bench, place, Stub(lambda number, body: "nothing"), mode=mode, unparsed=rule)
        for row in found.table.to_pylist():
            classes = chosen.n_options()[row["task"]]
            shares = train_shares(chosen, row["task"]) if rule == "train" else np.full(classes, 1 / classes)
            assert row["probabilities"] == pytest.approx(shares) and row["option_mass"] == 0.0
        about = found.folder.manifest.extra["answering"]["length_of_stay"]
        assert (about["unparsed"], about["by_rule"], about["swap"]) == (1.0, LIMIT, None)
        assert found.folder.manifest.extra["unparsed_rule"] == rule


def test_a_reader_is_told_how_a_model_answered(bench: Benchmark, tmp_path: Path) -> None:
    swap = {"examples": 9, "mean_absolute_difference": 0.2, "last_class_shift": -0.1, "answers_changed": 0.4}
    odd = {"examples": 9, "by_rule": 2, "bounded": 3, "option_mass": 0.03, "swap": swap}
    fine = {"examples": 9, "by_rule": 0, "bounded": 0, "option_mass": 0.97, "swap": {**swap, "answers_changed": 0.0}}
    titles = {"a": "Task A", "b": "Task B"}
    said = doubts({"a": odd, "b": fine, "c": odd}, titles, trained=False)
    assert [level for level, _ in said] == ["warn", "warn", "info", "info"]
    assert "Task A 2 of 9" in said[0][1] and "Task A 40%" in said[1][1] and "Task A 3%" in said[2][1]
    assert not any("Task B" in text for _, text in said)
    assert len(doubts({"a": odd}, titles, trained=True)) == 3
    found = run(bench, tmp_path, Stub(lambda number, body: "nothing"))
    results = collect(
        bench.folder.path, [found.folder.path], SETTINGS.model_copy(update={"resamples": 10, "fast": True})
    )
    assert any("nothing could be read" in warning["text"] for warning in results["warnings"])


def test_a_letter_that_is_not_listed_gets_its_upper_bound(bench: Benchmark, tmp_path: Path) -> None:
    found = run(bench, tmp_path, Stub(lambda number, body: "partial"))
    about = found.folder.manifest.extra["answering"]["readmission"]
    assert about["bounded"] == LIMIT and about["by_rule"] == 0
    for row in found.table.to_pylist():
        if row["task"] == "readmission":
            second = shares_of_example(bench, row["example_id"])[1]
            bound = min(0.05, 1 - second - 0.05)
            assert row["probabilities"][0] == pytest.approx(bound / (bound + second))


def shares_of_example(bench: Benchmark, example: str) -> list[float]:
    chosen = asked(bench, SETTINGS)
    text, task = next((g.text, i.task) for g in chosen.groups() for i in g.items if i.example_id == example)
    return shares_of(text + chosen.questions()[task])


def test_draws_are_counted_and_asked_for_until_there_are_enough(bench: Benchmark, tmp_path: Path) -> None:
    stub = Stub(lambda number, body: "few")
    settings = SETTINGS.model_copy(update={"tasks": ["readmission"], "swap_examples": 0})
    found = run(bench, tmp_path, stub, settings, mode="sample", draws=5)
    assert len(stub.bodies) == 2 * LIMIT  # three draws, then two more
    assert {body["n"] for body in stub.bodies} == {5, 2}
    # A, B, (A), then A, B: every draw is read; three of five are A.
    assert found.table["probabilities"].to_pylist() == [pytest.approx([0.6, 0.4])] * LIMIT
    assert found.table["option_mass"].to_pylist() == pytest.approx([1.0] * LIMIT)
    assert len({body["seed"] for body in stub.bodies}) == 2 * LIMIT


def test_few_shot_prompts_hold_train_notes_with_their_answers(bench: Benchmark, tmp_path: Path) -> None:
    stub = Stub()
    settings = SETTINGS.model_copy(update={"shots": 4, "tasks": ["readmission"], "swap_examples": 0, "shot_budget": 40})
    found = run(bench, tmp_path, stub, settings)
    assert found.regime == "few-shot" and found.folder.manifest.extra["shots"] == 4
    lead = {prompt[: prompt.rindex("\n\n", 0, prompt.rindex("\n\nQuestion:"))] for prompt in stub.answered}
    assert len(lead) == 1  # the same for all
    solved = lead.pop()
    assert solved.count("Answer: A") == 2 == solved.count("Answer: B")  # balanced
    train = bench.examples(["readmission"], ["train"])
    texts = bench.texts(train["note_id"].to_pylist())
    starts = {text[:30]: note for note, text in texts.items()}
    labels = dict(zip(train["note_id"].to_pylist(), train["label"].to_pylist(), strict=True))
    for part in (solved + "\n\n").split("\n\n")[:-1]:
        if not part.startswith("Question"):
            note = starts[part[:30]]
            answer = solved.split(part)[1].split("Answer: ")[1][0]
            assert answer == "AB"[labels[note]]


def test_a_refused_request_stops_or_is_counted(bench: Benchmark, tmp_path: Path) -> None:
    def plan(number: int, body: dict[str, Any]) -> Any:
        return 400 if len(body["prompt"]) % 2 else None

    with pytest.raises(ServerError, match="refuses a request"):
        run(bench, tmp_path, Stub(plan))
    found = run(bench, tmp_path, Stub(plan), refused="unparsed")  # goes on with the same journal
    assert found.folder.manifest.extra["cost"]["refused"] > 0
    assert found.table.num_rows == EXAMPLES
    assert found.folder.manifest.extra["answering"]["readmission"]["by_rule"] > 0


def test_a_server_without_log_probabilities_is_told_from_a_mishap(bench: Benchmark, tmp_path: Path) -> None:
    stub = Stub(lambda number, body: "no logprobs")
    with pytest.raises(ServerError, match="mode: sample"):
        run(bench, tmp_path, stub, concurrency=1)
    assert len(stub.bodies) == 2


def test_notes_do_not_leave_the_building_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    places = {"vendor.example": "93.184.216.34", "llm.hospital": "10.1.2.3", "both.example": "10.1.2.3"}

    def look_up(host: str, port: object, *rest: object) -> list[Any]:
        found = [(0, 0, 0, "", (places.get(host, host), 0))]
        return [*found, (0, 0, 0, "", ("8.8.8.8", 0))] if host == "both.example" else found

    monkeypatch.setattr("socket.getaddrinfo", look_up)

    def server(url: str, **values: Any) -> ServerSettings:
        return ServerSettings(url=url, model="m", **values)

    for inside in ("http://127.0.0.1:8000/v1", "http://[::1]:1/v1", "https://llm.hospital/v1", "http://192.168.0.9/v1"):
        assert not check_address(server(inside))
    for outside in ("https://vendor.example/v1", "https://both.example/v1", "http://[::ffff:8.8.8.8]/v1"):
        with pytest.raises(SettingsError, match="leave the building") as refused:
            check_address(server(outside))
        assert "\n" not in str(refused.value)
        assert check_address(server(outside, allow_remote=True))
    with pytest.raises(ValueError, match="no name or password"):
        server("https://me:secret@llm.hospital/v1")


def test_the_key_comes_from_the_environment_and_is_written_nowhere(
    bench: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SettingsError, match="HOSPITAL_KEY is not set"):
        run(bench, tmp_path, Stub(), api_key_env="HOSPITAL_KEY")
    monkeypatch.setenv("HOSPITAL_KEY", "s3cret-key")
    stub = Stub()
    run(bench, tmp_path, stub, api_key_env="HOSPITAL_KEY")
    assert {headers["authorization"] for headers in stub.headers} == {"Bearer s3cret-key"}
    for file in (tmp_path / "out").iterdir():
        assert b"s3cret-key" not in file.read_bytes()


def test_limits_and_prices_may_change_between_two_tries(tmp_path: Path) -> None:
    first = server_print(describe(tmp_path, most_cost=1.0))
    assert first == server_print(describe(tmp_path, most_cost=2.0, price_in=3.0, concurrency=9, url="http://[::1]/v1"))
    assert first != server_print(describe(tmp_path, mode="chat"))
    with pytest.raises(SettingsError, match="did you mean 'price_in'"):
        read_server(describe(tmp_path, price_inn=1.0))


def test_the_pace_keeps_every_minute_under_its_limits() -> None:
    now = [0.0]
    sent: list[tuple[float, float]] = []

    def sleep(seconds: float) -> None:
        now[0] += seconds

    pace = Pace(5, 100, lambda: now[0], sleep)
    rng = np.random.default_rng(0)
    for _ in range(60):
        size = float(rng.integers(1, 60))
        pace.wait(size)
        sent.append((now[0], size))
        now[0] += float(rng.exponential(3))
    for at, _ in sent:
        window = [size for when, size in sent if at - 60 + 1e-6 < when <= at]
        assert len(window) <= 5 and (sum(window) <= 100 or len(window) == 1)
    pace.quiet(500)
    before = now[0]
    pace.wait(1)
    assert now[0] >= before + 500


def test_waits_double_with_a_seeded_jitter_and_heed_the_server() -> None:
    def waits(seed: int, replies: list[httpx.Response]) -> list[float]:
        slept: list[float] = []
        settings = ServerSettings(url="http://127.0.0.1/v1", model="m", backoff=1.0, longest_wait=100, retries=4)
        left = iter(replies)
        client = Client(
            settings,
            Purse(settings),
            seed=seed,
            transport=httpx.MockTransport(lambda request: next(left)),
            sleep=slept.append,
            clock=lambda: sum(slept),
        )
        client.pace._sleep = slept.append
        client.ask("/x", {}, "k", 1, (1, 1), lambda reply: reply, lambda cost: None)
        return slept

    fails = [httpx.Response(500) for _ in range(3)]
    good = httpx.Response(200, json={})
    first = waits(1, [*fails, good])
    assert first == waits(1, [*fails, good]) != waits(2, [*fails, good])
    for number, wait in enumerate(first):
        assert 0.5 * 2**number <= wait <= 1.5 * 2**number
    assert sum(waits(1, [httpx.Response(429, headers={"retry-after": "30"}), good])) >= 30
    with pytest.raises(ServerError, match="pause of 3600 s"):
        waits(1, [httpx.Response(429, headers={"retry-after": "3600"}), good])


def test_malformed_replies_are_named() -> None:
    for reply in ([], {}, {"choices": []}, {"choices": ["x"]}, {"choices": [{"logprobs": {"content": ["x"]}}]}):
        with pytest.raises(BadAnswer):
            next_tokens(reply)
    for value in (float("nan"), 0.5, "high"):
        with pytest.raises(BadAnswer, match="no log-probability"):
            next_tokens({"choices": [{"logprobs": {"top_logprobs": [{" A": value}]}}]})
    for given in (None, {"content": []}, {"content": [{"token": "A", "logprob": -1.0, "top_logprobs": []}]}):
        with pytest.raises(NoLogProbabilities):
            next_tokens({"choices": [{"logprobs": given}]})
    straddling = {"tokens": ["x:", " A"], "token_logprobs": [None, -1.0], "text_offset": [0, 1]}
    with pytest.raises(BadAnswer, match="token of its own"):
        echoed({"choices": [{"logprobs": straddling}]}, "x:", " A")


def test_letters_are_summed_over_their_spellings() -> None:
    tokens = {" A": math.log(0.3), "A": math.log(0.1), "\u2581B": math.log(0.2), "Because": math.log(0.3)}
    read = read_letters(tokens, ["A", "B", "C"])
    assert np.exp(read.log_probabilities) == pytest.approx([0.4, 0.2, 0.1])  # C: what the others leave
    assert (read.bounded, read.unparsed) == (1, False)
    assert read_letters({"Well": -0.1}, ["A", "B"]).unparsed


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("B", 1),
        (" (B) because", None),
        ("B.", 1),
        ("**A**", 0),
        ("B) Yes", 1),
        ("The answer is B.", 1),
        ("Answer: A", 0),
        ("Yes.", 1),
        ("<think>A or B? A.</think>B", 1),
        ("A patient like this returns.", None),
        ("answer A or answer B", None),
        ("", None),
        ("Neither", None),
    ],
)
def test_drawn_answers_are_parsed_by_rules(text: str, option: int | None) -> None:
    found = parse_letter(text, ["A", "B"], ["No", "Yes"])
    assert found == (1 if text.startswith(" (B)") else option)


def test_a_journal_survives_damage_and_other_runs(tmp_path: Path) -> None:
    file = tmp_path / "j.jsonl"
    with Journal(file, {"seed": 1}) as journal:
        journal.add("a", {"x": 1})
        journal.add("a", {"x": 2})
        journal.add(None, {"cost": 3})
    with file.open("ab") as stream:
        stream.write(b'{"key": "b", "x": 2}\n{"key": "c", damaged}\n{"key": "d", "x": 4}\n{"key": "e"')
    with Journal(file, {"seed": 1}) as journal:
        assert {key: line["x"] for key, line in journal.lines.items()} == {"a": 1, "b": 2}
        assert len(journal.unkeyed) == 1 and "d" not in journal
        journal.add("d", {"x": 5})
    with Journal(file, {"seed": 1}) as journal:
        assert {key: line["x"] for key, line in journal.lines.items()} == {"a": 1, "b": 2, "d": 5}
    with Journal(file, {"seed": 2}) as journal:
        assert not journal.lines
    assert (tmp_path / "j.jsonl.other").exists()


def test_a_context_that_holds_no_note_is_refused(bench: Benchmark, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not hold the question"):
        run(bench, tmp_path, Stub(), context=64)
