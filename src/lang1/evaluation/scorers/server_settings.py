"""A language model behind an OpenAI-compatible address, described by a small YAML file."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import socket
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from lang1.common.errors import SettingsError
from lang1.common.settings import Settings, read_yaml, validate_settings

Mode = Literal["completions", "echo", "chat", "sample"]
# What may change between two tries of a run: limits, prices, patience. What is asked of which model may not.
FREE = frozenset(
    {
        *("url", "name", "api_key_env", "allow_remote", "refused", "timeout", "retries", "backoff", "longest_wait"),
        *("concurrency", "requests_per_minute", "tokens_per_minute", "price_in", "price_out", "currency", "most_cost"),
    }
)


class ServerSettings(Settings):
    """Where a model is served, how it is asked, and what it may cost.

    Modes: ``completions`` reads the log-probabilities of the token after the prompt, one request an example;
    ``echo`` has the server score each answer after the prompt, one request an option, exact also for letters that are
    several tokens; ``chat`` reads ``top_logprobs`` of a chat's first token; ``sample`` draws answers and counts them
    (arXiv 2511.13703 does so for models that give no log-probabilities: 10 draws at temperature 1).
    """

    url: str = Field(description="base address, e.g. http://127.0.0.1:8000/v1")
    model: str = Field(description="the model's name at that address")
    name: str | None = Field(None, description="its name in tables; null: the model's name without its folder")
    mode: Mode = "completions"
    api_key_env: str | None = Field(None, description="environment variable that holds the key; null: no key is sent")
    allow_remote: bool = Field(False, description="notes may be sent to an address outside this network")
    tokenizer: Path | None = Field(
        None, description="folder with the model's tokenizer.json, to cut notes exactly; null: four characters a token"
    )
    context: int = Field(8_192, ge=64, description="tokens that the server takes in one prompt")
    top_logprobs: int = Field(20, ge=1, le=1_000, description="log-probabilities asked for in completions and chat")
    system: str | None = Field(None, description="system message of a chat; null: none")
    instruction: str = Field(
        "Reply with the letter of the right answer only.", description="what a chat's message ends with; may be empty"
    )
    draws: int = Field(10, ge=1, le=1_000, description="answers drawn for each example (sample)")
    temperature: float = Field(1.0, ge=0, description="of the draws")
    answer_tokens: int = Field(16, ge=1, description="the most tokens of a drawn answer")
    unparsed: Literal["train", "uniform"] = Field(
        "train", description="answer of an example of which nothing can be read: the classes' shares in train, or even"
    )
    refused: Literal["stop", "unparsed"] = Field(
        "stop", description="an example that the server refuses (4xx): stop, or count it as not readable and go on"
    )
    timeout: float = Field(120.0, gt=0, description="seconds for one request")
    retries: int = Field(6, ge=0, description="further tries of a request that failed")
    backoff: float = Field(1.0, ge=0, description="seconds before the first further try, doubled each time")
    longest_wait: float = Field(120.0, ge=0, description="seconds waited at most before a further try")
    concurrency: int = Field(4, ge=1, le=1_000, description="requests at a time")
    requests_per_minute: float | None = Field(None, gt=0)
    tokens_per_minute: float | None = Field(None, gt=0)
    price_in: float = Field(0.0, ge=0, description="price of a million prompt tokens")
    price_out: float = Field(0.0, ge=0, description="price of a million answer tokens")
    currency: str = "USD"
    most_cost: float | None = Field(None, gt=0, description="the run stops before it costs more")
    extra: dict[str, Any] = Field(default={}, description="further fields of each request, e.g. reasoning_effort: low")

    @field_validator("url")
    @classmethod
    def _address(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("expected an address like http://127.0.0.1:8000/v1")
        if parts.username or parts.password:
            raise ValueError("no name or password in an address; put the key into an environment variable")
        return url.rstrip("/")

    @property
    def shown(self) -> str:
        """The model's name in tables."""
        return self.name or self.model.rstrip("/").rsplit("/", 1)[-1]

    def identity(self) -> dict[str, Any]:
        """What makes two runs the same: everything but :data:`FREE`."""
        return self.model_dump(mode="json", exclude=set(FREE))

    def key(self) -> str | None:
        """The key, from the environment alone.

        Raises:
            SettingsError: the variable is not set.
        """
        if self.api_key_env is None:
            return None
        found = os.environ.get(self.api_key_env)
        if not found:
            raise SettingsError(f"api_key_env: the environment variable {self.api_key_env} is not set.")
        return found


def read_server(file: Path) -> ServerSettings:
    """Read a server's description; a tokenizer's path in it is relative to the file.

    Raises:
        SettingsError: one line that names the file and the field.
    """
    values = read_yaml(file)
    if isinstance(values.get("tokenizer"), str):
        values["tokenizer"] = str(file.parent / values["tokenizer"])
    return validate_settings(ServerSettings, values, str(file))


def server_print(file: Path) -> str:
    """A fingerprint of a server's description that limits and prices do not change, so that a run goes on."""
    return hashlib.sha256(json.dumps(read_server(file).identity(), sort_keys=True).encode()).hexdigest()


def check_address(settings: ServerSettings) -> bool:
    """Whether the address lies outside this network, which ``allow_remote`` must then permit.

    This machine, private networks (RFC 1918, RFC 4193) and link-local addresses are inside. A name is looked up, and
    every address that it stands for must be inside.

    Raises:
        SettingsError: it lies outside and ``allow_remote`` is false, or the name is unknown.
    """
    host = urlsplit(settings.url).hostname or ""
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except OSError as error:
        if settings.allow_remote:  # a proxy may know the name
            return True
        raise SettingsError(
            f"url: the name '{host}' is unknown here ({error.strerror}); check {settings.url}."
        ) from None
    outside = sorted(one for one in found if not _inside(one))
    if outside and not settings.allow_remote:
        raise SettingsError(
            f"url: {host} ({outside[0]}) lies outside this network, so notes would leave the building; set "
            "allow_remote: true if that is permitted."
        )
    return bool(outside)


def _inside(address: str) -> bool:
    one = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(one, "ipv4_mapped", None)
    one = mapped or one
    return one.is_loopback or one.is_private or one.is_link_local
