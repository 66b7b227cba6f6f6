"""Requests to a model server: tried again when they fail, slow enough for its limits, within a budget of money."""

from __future__ import annotations

import email.utils
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import httpx

from lang1.common.errors import Lang1Error
from lang1.evaluation.scorers.server_settings import ServerSettings
from lang1.evaluation.scorers.server_shapes import BadAnswer, NoLogProbabilities, Usage, usage

RETRIED = frozenset({408, 409, 425, 429, *range(500, 600)})
MINUTE = 60.0
MILLION = 1e6
# Tokens that a server may put around a prompt (a chat's template) and bill.
TEMPLATE = 128


class ServerError(Lang1Error):
    """The server cannot be used, or not now; what was answered is kept."""


class Refused(ServerError):
    """The server refuses this one request for good (4xx)."""


class Stopped(ServerError):
    """The run was stopped by another request's failure."""


class CapReached(ServerError):
    """The next request could cost more than is permitted."""


class Purse:
    """Money spent and reserved; never lets a request start that could exceed the cap.

    Args:
        settings: prices and cap.
        spent: what earlier runs spent.
    """

    def __init__(self, settings: ServerSettings, spent: float = 0.0) -> None:
        self.cap, self.spent, self.settings = settings.most_cost, spent, settings
        self._reserved = 0.0
        self._changed = threading.Condition()

    def cost(self, prompt: float, answer: float) -> float:
        """The price of so many tokens."""
        return (prompt * self.settings.price_in + answer * self.settings.price_out) / MILLION

    def reserve(self, most: float) -> None:
        """Set the most that a request can cost aside; waits for requests under way where that decides.

        Raises:
            CapReached: it does not fit under the cap.
        """
        if self.cap is None:
            return
        with self._changed:
            while self.spent + self._reserved + most > self.cap:
                if self._reserved <= 0:
                    raise CapReached(
                        f"stopped before costing more than {self.cap:g} {self.settings.currency} (spent "
                        f"{self.spent:.4g}, the next request may cost {most:.4g}); raise most_cost and run the same "
                        "command again to go on."
                    )
                self._changed.wait(0.2)
            self._reserved += most

    def settle(self, most: float, cost: float) -> None:
        """A reserved request is over and cost so much."""
        with self._changed:
            if self.cap is not None:
                self._reserved = max(0.0, self._reserved - most)
                if self._reserved < 1e-12:
                    self._reserved = 0.0
            self.spent += cost
            self._changed.notify_all()


class Pace:
    """Keeps requests and tokens of any 60 seconds under their limits, and everybody quiet while the server asks so."""

    def __init__(
        self,
        requests: float | None,
        tokens: float | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._requests, self._tokens, self._clock, self._sleep = requests, tokens, clock, sleep
        self._sent: deque[tuple[float, float]] = deque()
        self._quiet_until = 0.0
        self._lock = threading.Lock()

    def wait(self, tokens: float) -> None:
        """Return when a request of so many tokens may be sent; a request over the limit waits for an empty minute."""
        while True:
            with self._lock:
                now = self._clock()
                while self._sent and self._sent[0][0] <= now - MINUTE:
                    self._sent.popleft()
                pause = self._quiet_until - now
                if self._sent:
                    if self._requests is not None and len(self._sent) + 1 > self._requests:
                        pause = max(pause, self._sent[0][0] + MINUTE - now)
                    if self._tokens is not None and sum(n for _, n in self._sent) + tokens > self._tokens:
                        pause = max(pause, self._sent[0][0] + MINUTE - now)
                if pause <= 0:
                    self._sent.append((now, tokens))
                    return
            self._sleep(pause)

    def quiet(self, seconds: float) -> None:
        """Nobody sends for so long."""
        with self._lock:
            self._quiet_until = max(self._quiet_until, self._clock() + seconds)


class Client:
    """One server. :meth:`ask` may be called from many threads.

    Args:
        settings: address, limits, prices.
        purse: what may be spent.
        seed: of the jitter of waiting times.
        remote: whether the address lies outside; a proxy of the environment is used only then.
        transport, clock, sleep: replaced in tests.
    """

    def __init__(
        self,
        settings: ServerSettings,
        purse: Purse,
        *,
        seed: int = 0,
        remote: bool = False,
        transport: httpx.BaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        key = settings.key()
        self.settings, self.purse, self._seed, self._sleep = settings, purse, seed, sleep
        self.pace = Pace(settings.requests_per_minute, settings.tokens_per_minute, clock, sleep)
        self._http = httpx.Client(
            timeout=settings.timeout,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            trust_env=remote,
            transport=transport,
            limits=httpx.Limits(max_connections=settings.concurrency, max_keepalive_connections=settings.concurrency),
        )
        self.stop = threading.Event()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def ask(
        self,
        path: str,
        body: Mapping[str, Any],
        key: str,
        tokens: int,
        most: tuple[int, int],
        read: Callable[[Any], Any],
        billed: Callable[[float], None],
    ) -> tuple[Any, Usage, float]:
        """Send a request until its reply can be read.

        Args:
            path: below the base address.
            body: the request.
            key: names the request; jitter is a function of seed, key and try.
            tokens: its size, for the pace.
            most: the most prompt and answer tokens that it can be billed for.
            read: takes the decoded reply; raises :class:`BadAnswer`.
            billed: told the cost of a try that gave nothing, where the server may bill it all the same.

        Returns:
            What was read, billed tokens, and the cost.

        Raises:
            Refused: a status that will not change (4xx).
            ServerError: all tries failed, or the server asks for too long a pause.
            CapReached: the next try could exceed the cap.
            Stopped: another request ended the run.
        """
        jitter = random.Random(f"{self._seed} {key}")
        failure = ""
        last: Exception | None = None
        silent = 0
        for number in range(self.settings.retries + 1):
            if self.stop.is_set():
                raise Stopped("stopped")
            self.pace.wait(tokens)
            if self.stop.is_set():
                raise Stopped("stopped")
            bound = self.purse.cost(*most)
            self.purse.reserve(bound)
            cost = 0.0
            wait = self.settings.backoff * 2**number * (0.5 + jitter.random())
            try:
                reply = self._http.post(f"{self.settings.url}{path}", json={**body, **self.settings.extra})
                if reply.status_code == 200:
                    cost = self.purse.cost(tokens, 0)  # unless it says otherwise
                    decoded = reply.json()
                    found = usage(decoded) if isinstance(decoded, Mapping) else Usage(None, None)
                    cost = self.purse.cost(found.prompt if found.prompt is not None else tokens, found.answer or 0)
                    value = read(decoded)
                    return value, found, cost
                failure, last = f"status {reply.status_code}: {_line(reply.text)}", None
                if reply.status_code not in RETRIED:
                    raise Refused(f"{self.settings.url}{path} refuses a request ({failure}).")
                asked = _retry_after(reply.headers.get("retry-after"))
                if asked is not None:
                    if asked > self.settings.longest_wait:
                        raise ServerError(
                            f"{self.settings.url} asks for a pause of {asked:.0f} s ({failure}); run the same command "
                            "again then: what was answered is kept."
                        )
                    wait = max(wait, asked)
                    self.pace.quiet(asked)
            except httpx.TimeoutException as error:
                # The server may have done the work, and bill it, before the connection was given up.
                cost, failure, last = self.purse.cost(tokens, 0), f"no reply in {self.settings.timeout:g} s", error
            except httpx.HTTPError as error:
                failure, last = f"{type(error).__name__}: {_line(str(error))}", error
            except (BadAnswer, ValueError) as error:  # ValueError: the body is no JSON
                failure, last = f"a reply that cannot be read: {_line(str(error))}", error
            finally:
                self.purse.settle(bound, cost)
            if cost:
                billed(cost)
            silent = silent + 1 if isinstance(last, NoLogProbabilities) else 0
            if silent == 2:
                break  # once may be a mishap, twice in a row is how the server is
            if number < self.settings.retries:
                self._sleep(min(wait, self.settings.longest_wait))
        if isinstance(last, NoLogProbabilities):
            raise ServerError(
                f"{self.settings.url}: {last}; set mode: sample, or serve the model with log-probabilities."
            )
        raise ServerError(
            f"{self.settings.url} failed {self.settings.retries + 1} times ({failure}); what was answered is kept: run "
            "the same command again to go on."
        ) from last


def _retry_after(value: str | None) -> float | None:
    """Seconds of a ``Retry-After`` header, which holds a number or a date; None where it cannot be read."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def _line(text: str) -> str:
    return " ".join(text.split())[:160]
