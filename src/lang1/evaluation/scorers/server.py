"""A served model as a scorer: one or a few requests an example, each answer written down once, whatever fails."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from lang1.common.errors import InputError
from lang1.common.progress import Meter, say
from lang1.evaluation.asking import Question
from lang1.evaluation.examples import Group
from lang1.evaluation.journal import Journal
from lang1.evaluation.replies import Reply
from lang1.evaluation.scorers.prompts import Cutter, Prompted, Spans, by_characters
from lang1.evaluation.scorers.server_client import TEMPLATE, Client, Purse, Refused, Stopped
from lang1.evaluation.scorers.server_settings import ServerSettings, check_address
from lang1.evaluation.scorers.server_shapes import (
    Read,
    echoed,
    next_tokens,
    parse_letter,
    read_letters,
    texts,
)
from lang1.metrics.auroc import Floats
from lang1.text.clean import clean_note
from lang1.text.questions import letters
from lang1.text.tokenizer import Tokenizer

# Tokens that joining lead, note and question, or a chat's template, may take besides.
SPARE = 32
# Examples whose prompts are made ahead of the requests.
AHEAD = 4


@dataclass(frozen=True)
class Task:
    """One example to ask."""

    key: str
    example_id: str
    prompt: str
    question: Question
    truncated: int


class Server:
    """A model behind an OpenAI-compatible address.

    Args:
        settings: the server.
        journal: answers of this run, also of earlier tries of it; what it spent is counted against the cap.
        seed: of the draws and of waiting times.
        note_budget: tokens of a note, at most.
        policy: which part of a longer note stays.
        rules: by task, the classes' shares that stand for an answer of which nothing could be read.
        transport: replaced in tests.

    Raises:
        SettingsError: the address lies outside and may not, or the key's variable is not set.
    """

    def __init__(
        self,
        settings: ServerSettings,
        journal: Journal,
        *,
        seed: int,
        note_budget: int,
        policy: str,
        rules: Mapping[str, Floats],
        transport: httpx.BaseTransport | None = None,
        client: Client | None = None,
    ) -> None:
        self.settings, self.journal, self.seed = settings, journal, seed
        self.note_budget, self.policy, self.rules = note_budget, policy, rules
        every = [*journal.lines.values(), *journal.unkeyed]
        purse = Purse(settings, sum(float(line.get("cost", 0.0)) for line in every))
        if client is None:
            remote = check_address(settings)
            if remote:
                say(f"Notes are sent to {settings.url}, outside this network (allow_remote).")
            client = Client(settings, purse, seed=seed, remote=remote, transport=transport)
        self.client = client
        self.cutter = cutter_of(settings)

    def cut(self, text: str, budget: int, policy: str) -> str:
        """A text cut to so many tokens."""
        return self.cutter.cut(text, budget, policy)[0]

    def answer(self, name: str, groups: Iterable[Group], questions: Mapping[str, Question], meter: Meter) -> None:
        """Ask what the journal does not hold yet; see :func:`replies_of` for what it holds then.

        Args:
            name: of the variant, the first part of each key.
            groups: notes and questions.
            questions: by task.
            meter: told of each example.

        Raises:
            ServerError: the server failed for good, asks for a long pause, or the cap is reached; what was answered is
                in the journal.
        """
        budgets = {task: self._room(question) for task, question in questions.items()}
        failure: list[BaseException] = []
        lock = threading.Lock()

        def one(task: Task) -> None:
            try:
                self._ask(task)
            except Stopped:
                return
            except BaseException as error:
                with lock:
                    failure.append(error)
                self.client.stop.set()
                return
            with lock:
                meter.add(1)

        pending: set[Future[None]] = set()
        with ThreadPoolExecutor(self.settings.concurrency) as pool:
            try:
                for group in groups:
                    text = clean_note(group.text)
                    for item in group.items:
                        key = f"{name}:{item.example_id}"
                        if self.client.stop.is_set():
                            break
                        if key in self.journal:
                            meter.add(1)
                            continue
                        question, budget = questions[item.task], budgets[item.task]
                        note, cut = self.cutter.note(Prompted(text, item.task, group.chart), budget, self.policy)
                        task = Task(key, item.example_id, f"{question.lead}{note}{question.text}", question, cut)
                        pending.add(pool.submit(one, task))
                        while len(pending) >= self.settings.concurrency * AHEAD:
                            _, pending = wait(pending, return_when=FIRST_COMPLETED)
            except BaseException:
                self.client.stop.set()
                raise
        if failure:
            raise failure[0]

    def _room(self, question: Question) -> int:
        room = self.settings.context - self.cutter.count(question.text) - self.cutter.count(question.lead) - SPARE
        room -= self.settings.answer_tokens if self.settings.mode == "sample" else 1
        if room < 1:
            raise InputError(
                f"{self.settings.shown}: a context of {self.settings.context} tokens does not hold the question and a "
                "note; use fewer shots, or set context."
            )
        return min(self.note_budget, room)

    def _ask(self, task: Task) -> None:
        names = letters(len(task.question.options))
        try:
            mode = self.settings.mode
            if mode == "echo":
                self._echo(task, names)
            elif mode == "sample":
                self._sample(task, names)
            else:
                self._listed(task, names)
        except Refused:
            if self.settings.refused == "stop":
                raise
            nothing = np.zeros(len(names))
            self._write(task, Read(nothing, 0, True), 0, 0, 0.0, refused=True)

    def _listed(self, task: Task, names: Sequence[str]) -> None:
        """``completions`` and ``chat``: the log-probabilities of the likeliest next tokens."""
        if self.settings.mode == "chat":
            path = "/chat/completions"
            asked = {"logprobs": True, "top_logprobs": self.settings.top_logprobs}
            body = {"messages": self._messages(task.prompt), **asked}
        else:
            path, body = "/completions", {"prompt": task.prompt, "logprobs": self.settings.top_logprobs}
        body |= {"model": self.settings.model, "max_tokens": 1, "temperature": 0.0}

        def read(reply: Any) -> Read:
            return read_letters(next_tokens(reply), names)

        found, used, cost = self._request(path, body, task, task.key, 1, read)
        self._write(task, found, used.prompt, used.answer, cost)

    def _echo(self, task: Task, names: Sequence[str]) -> None:
        """Each answer scored after the prompt: a request an option."""
        scores, prompt, answer, cost = [], 0, 0, 0.0
        for name in names:
            body = {
                "prompt": f"{task.prompt} {name}",
                "echo": True,
                "logprobs": 1,
                "max_tokens": 1,
                "temperature": 0.0,
                "model": self.settings.model,
            }

            def read(reply: Any, said: str = f" {name}") -> float:
                return echoed(reply, task.prompt, said)

            score, used, more = self._request("/completions", body, task, f"{task.key}:{name}", 1, read)
            scores.append(score)
            prompt, answer, cost = prompt + (used.prompt or 0), answer + (used.answer or 0), cost + more
        self._write(task, Read(np.array(scores), 0, False), prompt, answer, cost)

    def _sample(self, task: Task, names: Sequence[str]) -> None:
        """Drawn answers, counted; a server that draws fewer at a time than asked is asked again for the others."""
        said: list[str] = []
        prompt, answer, cost = 0, 0, 0.0
        while len(said) < self.settings.draws:
            left = self.settings.draws - len(said)
            body = {
                "messages": self._messages(task.prompt),
                "model": self.settings.model,
                "n": left,
                "max_tokens": self.settings.answer_tokens,
                "temperature": self.settings.temperature,
                "seed": _seed(self.seed, task.key, len(said)),
            }
            key = f"{task.key}:{len(said)}"
            more, used, price = self._request("/chat/completions", body, task, key, left, texts)
            said += more[:left]
            prompt, answer, cost = prompt + (used.prompt or 0), answer + (used.answer or 0), cost + price
        read = [parse_letter(text, names, task.question.options) for text in said]
        counts = np.bincount([i for i in read if i is not None], minlength=len(names)).astype(np.float64)
        parsed = counts.sum()
        with np.errstate(divide="ignore"):
            # Of all draws, so that the mass is the parsed share and the softmax the share among the parsed.
            scores = np.log(counts / len(said))
        found = Read(scores, 0, not parsed)
        self._write(task, found, prompt, answer, cost, unparsed=1.0 - parsed / len(said))

    def _messages(self, prompt: str) -> list[dict[str, str]]:
        user = f"{prompt}\n\n{self.settings.instruction}" if self.settings.instruction else prompt
        system = [{"role": "system", "content": self.settings.system}] if self.settings.system else []
        return [*system, {"role": "user", "content": user}]

    def _request(self, path: str, body: Mapping[str, Any], task: Task, key: str, draws: int, read: Any) -> Any:
        tokens = self.cutter.count(task.prompt) + SPARE
        # No byte-level vocabulary makes more tokens than a text has bytes.
        most = len(task.prompt.encode()) + len((self.settings.system or "") + self.settings.instruction) + TEMPLATE
        answer = int(body["max_tokens"]) * draws

        def billed(cost: float) -> None:
            self.journal.add(None, {"cost": cost, "for": key})

        return self.client.ask(path, body, key, tokens, (most, answer), read, billed)

    def _write(
        self,
        task: Task,
        found: Read,
        prompt: int | None,
        answer: int | None,
        cost: float,
        *,
        unparsed: float | None = None,
        refused: bool = False,
    ) -> None:
        if unparsed is None:
            unparsed = 1.0 if found.unparsed else 0.0
        scores = found.log_probabilities
        if unparsed >= 1.0:
            rule = self.rules[task.example_id.partition(":")[0]]
            scores = np.log(np.maximum(rule, 1e-12))[list(task.question.classes)]
        reply = Reply(task.example_id, task.question.by_class(scores), task.truncated, found.bounded, unparsed)
        self.journal.add(
            task.key,
            {
                "row": reply.as_list(),
                "in": prompt,
                "out": answer,
                "cost": cost,
                **({"refused": True} if refused else {}),
            },
        )


def cutter_of(settings: ServerSettings) -> Cutter:
    """Cuts by the model's own tokenizer where it is at hand, else by characters.

    Raises:
        ArtefactError: the tokenizer cannot be read.
    """
    if settings.tokenizer is None:
        return Cutter(by_characters)
    tokenizer = Tokenizer.load(Path(settings.tokenizer))

    def spans(text: str) -> Spans:
        return list(tokenizer.inner.encode(text, add_special_tokens=False).offsets)

    return Cutter(spans)


def replies_of(journal: Journal, name: str) -> dict[str, Reply]:
    """A variant's answers in a journal, by example."""
    rows = [line["row"] for key, line in journal.lines.items() if key.startswith(f"{name}:") and "row" in line]
    return {reply.example_id: reply for reply in map(Reply.of_list, rows)}


def cost_of(journal: Journal, currency: str) -> dict[str, Any]:
    """What a run was billed for: tokens and money, tries that gave nothing included; how many requests were refused."""
    lines = list(journal.lines.values())
    return {
        "prompt_tokens": sum(line.get("in") or 0 for line in lines),
        "answer_tokens": sum(line.get("out") or 0 for line in lines),
        "money": sum(float(line.get("cost", 0.0)) for line in [*lines, *journal.unkeyed]),
        "of_it_for_failed_tries": sum(float(line.get("cost", 0.0)) for line in journal.unkeyed),
        "currency": currency,
        "refused": sum(bool(line.get("refused")) for line in lines),
    }


def _seed(seed: int, key: str, draw: int) -> int:
    from lang1.common.identity import unit_hash

    return int(unit_hash(key, f"draws-{seed}-{draw}") * 2**31)
