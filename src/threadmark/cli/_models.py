"""Which model answers in `threadmark chat`."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass

OFFLINE = "offline"

# Environment variables, the model that each brings, the module that must be installed, and its extra.
PROVIDERS: tuple[tuple[tuple[str, ...], str, str, str], ...] = (
    (("OPENAI_API_KEY",), "openai:gpt-6-luna", "openai", "openai"),
    (("ANTHROPIC_API_KEY",), "anthropic:claude-haiku-5-5", "anthropic", "anthropic"),
    (("GOOGLE_API_KEY", "GEMINI_API_KEY"), "google:gemini-3.8-flash", "google.genai", "google"),
)

_KEYS = "Set OPENAI_API_KEY, ANTHROPIC_API_KEY or GOOGLE_API_KEY for a model."
_HINTS = {OFFLINE: _KEYS, "local": "a very small model in this process: fluent, and seldom right"}


@dataclass(frozen=True, slots=True)
class Choice:
    """A model by name, "offline" for the offline responder, and what there is to say about the choice."""

    name: str
    hint: str = ""


def choose(asked: str | None, environ: Mapping[str, str]) -> Choice:
    """The model that was asked for; else that of the first provider key in `environ`; else none.

    A provider whose package is not installed is passed over; if that leaves none, the hint says which command
    installs it.
    """
    if asked:
        return Choice(asked, _HINTS.get(asked, ""))
    missing = ""
    for variables, model, module, extra in PROVIDERS:
        variable = next((name for name in variables if environ.get(name)), None)
        if variable is None:
            continue
        if _installed("pydantic_ai") and _installed(module):
            return Choice(model, f"from {variable}; --model chooses another")
        if not missing:
            missing = f"{variable} is set, but its package is missing; run: pip install 'threadmark[{extra}]'"
    return Choice(OFFLINE, missing or _KEYS)


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that it would be in
        return False
