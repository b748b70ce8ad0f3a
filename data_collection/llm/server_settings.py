"""Settings of an OpenAI-compatible server; apart from the client, which takes a second to import."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from configs.errors import SettingsError
from configs.settings import setting

# What the program itself decides of every request.
_OWN_FIELDS = frozenset(("model", "messages", "max_tokens", "max_completion_tokens", "n", "stream"))
BYTES_PER_TOKEN = 3  # of UTF-8 text, on the dear side: what a request may cost must be known before it is sent


@dataclass
class ServerSettings:
    """Which server to ask, how fast, and for how much."""

    server_url: str = setting("http://127.0.0.1:8000/v1", "address of an OpenAI-compatible server")
    server_model: str | None = setting(None, "the model's name there; the only one it serves by default")
    api_key_variable: str = setting(
        "OPENAI_API_KEY", "environment variable that holds the key; where it is unset the word none"
    )
    extra_body: dict[str, Any] = setting(
        {},
        "JSON of further fields of every request, which go over ours; no thinking: "
        '{"chat_template_kwargs": {"enable_thinking": false}} (vLLM, SGLang); less: {"reasoning_effort": "low"}',
    )
    max_concurrent_requests: int = setting(16, "requests in flight at once")
    requests_per_minute: float | None = setting(None, "limit of the server")
    tokens_per_minute: float | None = setting(None, "limit of the server, prompt and answer together")
    request_timeout: float = setting(300.0, "seconds before a request is given up and tried again")
    max_retries: int = setting(8, "further tries of a request that failed in passing")
    input_price: float = setting(0.0, "price of a million prompt tokens")
    output_price: float = setting(0.0, "price of a million tokens of answer")
    budget: float | None = setting(None, "the most that this command may spend, in the currency of the prices")

    def identity(self, model: str) -> dict[str, Any]:
        """What answers of the server's model of that name depend on, beside what it is asked."""
        return {"model": model, **({"extra_body": self.extra_body} if self.extra_body else {})}

    def refuse_unused(self, todo: str) -> None:
        """For a command that asks no server: settings of one would do nothing.

        Raises:
            SettingsError: some are given; `todo` says how to have the server asked.
        """
        default = ServerSettings()
        given = [item.name for item in fields(self) if getattr(self, item.name) != getattr(default, item.name)]
        if given:
            raise SettingsError(
                "settings of a server are given, and none would be asked",
                where=", ".join(f"--{name}" for name in given),
                todo=f"{todo}, or leave these out",
            )

    def share(self, number: int) -> ServerSettings:
        """The settings of one of so many tasks that ask a server at once: its part of the limits and of the budget."""
        parts = {
            name: value / number
            for name in ("requests_per_minute", "tokens_per_minute", "budget")
            if (value := getattr(self, name)) is not None
        }
        return replace(self, **parts)

    def problems(self) -> list[str]:
        """What is wrong with the values."""
        above_0 = ("max_concurrent_requests", "requests_per_minute", "tokens_per_minute", "request_timeout")
        not_below_0 = ("max_retries", "input_price", "output_price", "budget")
        values = {name: value for name in above_0 + not_below_0 if (value := getattr(self, name)) is not None}
        found = [f"{name} {values[name]}: wanted above 0" for name in above_0 if values.get(name, 1) <= 0]
        found += [f"{name} {values[name]}: wanted 0 or more" for name in not_below_0 if values.get(name, 0) < 0]
        if own := sorted(_OWN_FIELDS & self.extra_body.keys()):
            found.append(f"extra_body: wanted without {', '.join(own)}, which the command sets itself")
        if self.budget is not None and not self.input_price + self.output_price:
            found.append("budget: wanted with input_price and output_price, or nothing is counted against it")
        return found
