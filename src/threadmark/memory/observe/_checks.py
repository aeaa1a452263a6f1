"""Checking the values of settings. Each raises `ConfigurationError` that names the option."""

from __future__ import annotations

import re
from datetime import timedelta, tzinfo
from functools import lru_cache
from math import isfinite
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ..._errors import ConfigurationError

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

MINUTE, HOUR = 60.0, 3600.0

# How long providers keep the prefix of a prompt cached, in seconds.
_CACHE_TTL = {"deepseek": HOUR, "groq": 2 * HOUR, "google": 24 * HOUR, "openai": 5 * MINUTE}
_GOOGLE = ("google", "gemini", "vertex")


def positive(name: str, value: object, *, least: int = 1) -> None:
    """A whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigurationError(f"{name} must be a whole number of at least {least}, not {value!r}")


def amount(
    name: str,
    value: Any,
    *,
    ratio_from: float = 0,
    ratio_below: float | None = None,
    ratio_up_to: float | None = None,
    least: int = 1,
) -> None:
    """A ratio within its bounds, or else a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value):
        raise ConfigurationError(f"{name} must be a number, not {value!r}")
    bound = ratio_below if ratio_below is not None else ratio_up_to
    assert bound is not None
    if value < bound or (ratio_up_to is not None and value == bound):
        if not (value > 0 and value >= ratio_from):
            raise ConfigurationError(f"{name} as a ratio must be more than {ratio_from:g}, not {value!r}")
    elif value < least or value != int(value):
        raise ConfigurationError(
            f"{name} must be a ratio of at most {bound:g} or whole tokens from {least:,} on, not {value!r}"
        )


def flag(name: str, value: object) -> None:
    """True or false."""
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name} must be True or False, not {value!r}")


def choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """One of `choices`."""
    if value not in choices:
        raise ConfigurationError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}")


def text(name: str, value: object) -> None:
    """A string."""
    if not isinstance(value, str):
        raise ConfigurationError(f"{name} must be a string, not {type(value).__name__}")


def seconds(name: str, value: object, model: str | None = None) -> float | None:
    """Seconds out of a number, a timedelta, "5m" or "auto"; `None` for false."""
    if value is False or value is None:
        return None
    if isinstance(value, timedelta):
        value = value.total_seconds()
    elif isinstance(value, str):
        if value == "auto":
            return cache_lifetime(model)
        match = _DURATION.fullmatch(value.strip())
        if match is None:
            raise ConfigurationError(f"{name} must be like '90s', '5m', '2h' or 'auto', not {value!r}")
        value = float(match[1]) * _UNITS[match[2]]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value) or value <= 0:
        raise ConfigurationError(f"{name} must be a time above 0, not {value!r}")
    return float(value)


def cache_lifetime(model: str | None) -> float:
    """Seconds for which the provider of `model` ("provider:name") keeps a prompt's prefix cached.

    Five minutes for whoever is not known to keep it longer.
    """
    provider, _, name = (model or "").casefold().replace("/", ":", 1).partition(":")
    if provider.startswith(_GOOGLE):
        return _CACHE_TTL["google"]
    if provider.startswith("openai"):
        old = re.match(r"gpt-4|gpt-5(?:$|-|\.[1-4](?:$|-))|o\d", name)
        return _CACHE_TTL["openai"] if old or not name else HOUR
    return _CACHE_TTL.get(provider, 5 * MINUTE)


@lru_cache(maxsize=64)
def zone(name: str) -> tzinfo:
    """The zone of an IANA name."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, TypeError, OSError):
        if name == "UTC":  # also where there is no database of zones
            from datetime import UTC

            return UTC
        raise ConfigurationError(
            f"timezone must be an IANA name like 'Europe/Rome', not {name!r}; "
            "on systems without a database of zones, `pip install tzdata`"
        ) from None
