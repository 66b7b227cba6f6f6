"""Reading answers of OpenAI-compatible servers: the shapes that OpenAI, vLLM, llama.cpp and TGI return.

Everything here takes decoded JSON of which nothing is known, and says what is wrong with it in one line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lang1.metrics.auroc import Floats

# What byte-level and SentencePiece vocabularies write for a space.
_SPACES = str.maketrans({"\u0120": " ", "\u2581": " ", "\u010a": "\n"})
SMALLEST = 1e-12


class BadAnswer(Exception):
    """A reply that cannot be read; the request is tried again."""


class NoLogProbabilities(BadAnswer):
    """A well-formed reply without log-probabilities: the server does not give them in this mode."""


@dataclass(frozen=True)
class Usage:
    """Tokens that a request was billed for; None where the server does not say."""

    prompt: int | None
    answer: int | None


@dataclass(frozen=True)
class Read:
    """What one reply says about the options.

    Attributes:
        log_probabilities: (C,) of each letter over the whole vocabulary.
        bounded: letters that the server did not list, whose probability is an upper bound.
        unparsed: True where no letter was listed at all; ``log_probabilities`` then mean nothing.
    """

    log_probabilities: Floats
    bounded: int
    unparsed: bool


def usage(reply: Mapping[str, Any]) -> Usage:
    """Billed tokens of a reply."""
    found = reply.get("usage")
    counts = [
        found.get(name) if isinstance(found, Mapping) else None for name in ("prompt_tokens", "completion_tokens")
    ]
    whole = [int(n) if isinstance(n, int) and n >= 0 else None for n in counts]
    return Usage(whole[0], whole[1])


def choices(reply: Any) -> list[Mapping[str, Any]]:
    """The choices of a reply.

    Raises:
        BadAnswer: it has none.
    """
    found = reply.get("choices") if isinstance(reply, Mapping) else None
    if not isinstance(found, list) or not found or not all(isinstance(one, Mapping) for one in found):
        raise BadAnswer(f"no choices in the reply ({_short(reply)})")
    return found


def next_tokens(reply: Any) -> dict[str, float]:
    """Log-probabilities of the most likely next tokens, by their text.

    Raises:
        BadAnswer: malformed.
        NoLogProbabilities: none are given.
    """
    choice = choices(reply)[0]
    given = choice.get("logprobs")
    if given is None:  # older llama.cpp
        given = reply.get("completion_probabilities")
    if not given:
        raise NoLogProbabilities("the server returned no log-probabilities")
    if isinstance(given, Mapping) and isinstance(given.get("content"), list):  # chat, newer llama.cpp, TGI
        return _listed(given["content"])
    if isinstance(given, list):
        return _listed(given)
    if isinstance(given, Mapping) and isinstance(given.get("top_logprobs"), list) and given["top_logprobs"]:
        first = given["top_logprobs"][0]
        if isinstance(first, Mapping):  # OpenAI's first form, vLLM
            found = _numbers(first.items())
            tokens, scores = given.get("tokens"), given.get("token_logprobs")
            if isinstance(tokens, list) and isinstance(scores, list) and tokens and scores:
                found |= _numbers([(tokens[0], scores[0])])
            return found
        if isinstance(first, list):
            return _entries(first)
    raise NoLogProbabilities("the server returned no log-probabilities of other tokens than its own")


def _listed(content: Sequence[Any]) -> dict[str, float]:
    if not content:
        raise NoLogProbabilities("the server returned an empty list of log-probabilities")
    first = content[0]
    if not isinstance(first, Mapping):
        raise BadAnswer(f"log-probabilities of an unknown shape ({_short(first)})")
    many = next((first[name] for name in ("top_logprobs", "top_probs", "probs") if first.get(name)), None)
    if not isinstance(many, list):
        raise NoLogProbabilities("the server returned no log-probabilities of other tokens than its own")
    return _entries([*many, *([first] if "logprob" in first else [])])


def _entries(many: Sequence[Any]) -> dict[str, float]:
    pairs: list[tuple[Any, Any]] = []
    for one in many:
        if not isinstance(one, Mapping):
            raise BadAnswer(f"log-probabilities of an unknown shape ({_short(one)})")
        text = next((one[name] for name in ("token", "tok_str", "text") if isinstance(one.get(name), str)), None)
        if "logprob" in one:
            pairs.append((text, one["logprob"]))
        else:
            share = one.get("prob")
            pairs.append((text, math.log(max(share, SMALLEST)) if isinstance(share, (int, float)) else None))
    return _numbers(pairs)


def _numbers(pairs: Any) -> dict[str, float]:
    found: dict[str, float] = {}
    for text, score in pairs:
        if score is None or not isinstance(text, str):
            continue
        if not isinstance(score, (int, float)) or math.isnan(score) or score > 1e-3:
            raise BadAnswer(f"'{score}' is no log-probability")
        found[text] = max(float(score), found.get(text, -math.inf))
    if not found:
        raise BadAnswer("a list of log-probabilities without any number")
    return found


def read_letters(tokens: Mapping[str, float], letters: Sequence[str]) -> Read:
    """The letters among the listed tokens.

    A token counts for a letter when it is the letter but for white space around it. A letter that is not listed can
    be no likelier than the least likely listed token, nor than what the listed ones leave: that bound stands for it.
    """
    shares: dict[str, float] = {}
    for text, score in tokens.items():
        plain = text.translate(_SPACES).strip()
        if plain in letters:
            shares[plain] = shares.get(plain, 0.0) + math.exp(score)
    rest = max(1.0 - math.fsum(math.exp(score) for score in tokens.values()), SMALLEST)
    bound = max(min(rest, math.exp(min(tokens.values()))), SMALLEST)
    found = np.log([max(shares.get(letter, bound), SMALLEST) for letter in letters])
    return Read(np.asarray(found, dtype=np.float64), sum(one not in shares for one in letters), not shares)


def echoed(reply: Any, prompt: str, answer: str) -> float:
    """The log-probability of ``answer`` after ``prompt``, of a reply that echoes both.

    Raises:
        BadAnswer: malformed, or a token that is partly prompt and partly answer.
        NoLogProbabilities: none are given.
    """
    given = choices(reply)[0].get("logprobs")
    if not isinstance(given, Mapping) or not isinstance(given.get("token_logprobs"), list):
        raise NoLogProbabilities("the server does not echo the prompt's log-probabilities")
    tokens, scores = given.get("tokens"), given["token_logprobs"]
    offsets = given.get("text_offset")
    if not isinstance(tokens, list) or len(tokens) != len(scores):
        raise BadAnswer("echoed tokens and log-probabilities are not of one length")
    if not isinstance(offsets, list) or len(offsets) != len(tokens):
        raise BadAnswer("an echo without text_offset")
    first, last = len(prompt), len(prompt) + len(answer)
    places = [i for i, at in enumerate(offsets) if isinstance(at, int) and first <= at < last]
    if not places or offsets[places[0]] != first:
        raise BadAnswer(f"the answer '{answer}' does not start on a token of its own after the prompt")
    total = 0.0
    for i in places:
        if not isinstance(scores[i], (int, float)) or not math.isfinite(scores[i]) or scores[i] > 1e-3:
            raise BadAnswer(f"'{scores[i]}' is no log-probability")
        total += float(scores[i])
    return total


def texts(reply: Any) -> list[str]:
    """What a reply's choices say.

    Raises:
        BadAnswer: malformed.
    """
    found = []
    for choice in choices(reply):
        message = choice.get("message")
        text = message.get("content") if isinstance(message, Mapping) else choice.get("text")
        if text is not None and not isinstance(text, str):
            raise BadAnswer(f"an answer that is no text ({_short(text)})")
        found.append(text or "")
    return found


def parse_letter(text: str, letters: Sequence[str], options: Sequence[str]) -> int | None:
    """Which option a drawn answer names, or None.

    In order: a letter alone or followed by a mark ("B", "(B)", "B. Yes"); a letter after "answer"; an option's own
    words and nothing else. Two different letters after "answer" are no answer.
    """
    plain = re.sub(r"<think>.*?</think>", "", text, flags=re.DOTALL).strip().strip("*_`\"' ")
    among = "".join(letters)
    start = re.match(rf"\(?([{among}])(?:[).:,*]|\s*$|\s*\n|\s+-)", plain)
    if start:
        return letters.index(start[1])
    said = set(re.findall(rf"(?i:answer|option)(?:\s+(?i:is|would be))?\s*:?\s*[*(]*([{among}])\b", plain))
    if len(said) == 1:
        return letters.index(said.pop())
    words = plain.rstrip(".").casefold()
    same = [i for i, option in enumerate(options) if option.casefold() == words]
    return same[0] if len(same) == 1 else None


def _short(value: Any) -> str:
    return " ".join(str(value).split())[:120]
