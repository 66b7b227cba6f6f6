"""A stub of an OpenAI-compatible server: knows the right answers, and fails in every way that is asked of it."""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

# (share of A, of B, …) as a function of the prompt.
Shares = Callable[[str], list[float]]


def shares_of(prompt: str) -> list[float]:
    """A probability that depends on the note and not on the letters: more frailty, more of the option 'Yes'."""
    note, _, question = prompt.rpartition("Question:")
    options = re.findall(r"^([A-Z])\. (.*)$", question, re.MULTILINE)
    lean = 0.2 + 0.5 * ("cachexia" in note.rpartition("Answer:")[2]) + 0.01 * (len(note) % 7)
    weights = [lean if i in (1, 3) else 1 - lean for i in range(len(options))]
    names = [text for _, text in options]
    if names and names[0] == "Yes":
        weights.reverse()
    return [0.9 * w / sum(weights) for w in weights]


class Stub:
    """Answers requests; ``plan`` may fail any of them.

    Args:
        plan: given the number of the request and its body, None to answer, or what to do: an int status, "garbage",
            "partial", "nothing", "stall".
        shape: openai, content (chat, newer llama.cpp), probs (older llama.cpp).
    """

    def __init__(self, plan: Callable[[int, dict[str, Any]], Any] | None = None, shape: str = "openai") -> None:
        self.plan, self.shape = plan or (lambda number, body: None), shape
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self._lock = threading.Lock()
        self.answered: list[str] = []

    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self._handle)

    def _handle(self, request: httpx.Request) -> httpx.Response:
        status, headers, content = self.reply(request.url.path, json.loads(request.content), dict(request.headers))
        if status == 0:
            raise httpx.ReadTimeout("stalled", request=request)
        return httpx.Response(status, headers=headers, content=content)

    def reply(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        with self._lock:
            number = len(self.bodies)
            self.bodies.append(body)
            self.headers.append(headers)
        todo = self.plan(number, body)
        if todo == "stall":
            return 0, {}, b""
        if isinstance(todo, tuple):
            return todo[0], todo[1], b"slow down"
        if isinstance(todo, int):
            return todo, {}, b'{"error": "as planned"}'
        if todo == "garbage":
            return 200, {}, b'{"choices": [{"lo'
        prompt = body["prompt"] if "prompt" in body else body["messages"][-1]["content"]
        with self._lock:
            self.answered.append(prompt)
        return 200, {}, json.dumps(self._answer(body, prompt, todo)).encode()

    def _answer(self, body: dict[str, Any], prompt: str, todo: Any) -> dict[str, Any]:
        usage = {"prompt_tokens": len(prompt.split()), "completion_tokens": 1}
        if body.get("echo"):
            return {"choices": [self._echo(prompt)], "usage": usage}
        shares = shares_of(prompt)
        tokens = {f" {'ABCDEFGH'[i]}": math.log(share) for i, share in enumerate(shares)} | {"\n": math.log(0.05)}
        if todo == "partial":
            tokens.pop(" A")
        if todo == "nothing":
            tokens = {"Well": math.log(0.8)}
        if "n" in body:
            letters = ["A", "The answer is B.", "(A)", "I cannot tell.", "B"]
            drawn = letters[: max(1, min(body["n"], 3 if todo == "few" else 5))]
            drawn = ["no idea"] * len(drawn) if todo == "nothing" else drawn
            return {"choices": [{"message": {"content": text}} for text in drawn], "usage": usage}
        best = max(tokens, key=lambda t: tokens[t])
        if todo == "no logprobs":
            return {"choices": [{"text": best, "logprobs": None}], "usage": usage}
        listed = [{"token": t.replace(" ", "\u0120"), "logprob": score} for t, score in tokens.items()]
        if "messages" in body or self.shape == "content":
            return {
                "choices": [{"logprobs": {"content": [{**listed[0], "top_logprobs": listed}]}}],
                "usage": usage,
            }
        if self.shape == "probs":
            probs = [{"tok_str": t, "prob": math.exp(score)} for t, score in tokens.items()]
            return {"choices": [{"text": best}], "completion_probabilities": [{"probs": probs}], "usage": usage}
        legacy = {"top_logprobs": [tokens], "tokens": [best], "token_logprobs": [tokens[best]]}
        return {"choices": [{"text": best, "logprobs": legacy}], "usage": usage}

    def _echo(self, prompt: str) -> dict[str, Any]:
        """The letter comes as two tokens, a space and the letter, and one more token is made."""
        before, letter = prompt[:-2], prompt[-1]
        share = shares_of(before)["ABCDEFGH".index(letter)]
        return {
            "text": prompt + "\n",
            "logprobs": {
                "tokens": [before, " ", letter, "\n"],
                "token_logprobs": [None, math.log(0.9), math.log(share / 0.9), -0.1],
                "text_offset": [0, len(before), len(before) + 1, len(before) + 2],
            },
        }


@contextmanager
def served(stub: Stub) -> Iterator[str]:
    """The stub on a port of this machine; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            status, headers, content = stub.reply(self.path, body, {k.lower(): v for k, v in self.headers.items()})
            if status == 0:
                self.connection.close()  # dies half-way
                return
            self.send_response(status)
            for name, value in {**headers, "content-length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *ignored: object) -> None:
            pass

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except (OSError, ValueError):
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
