"""Patterns of things that should not be in a text, each of bounded reach so that streams can be filtered."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from .._errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Pattern:
    """What to look for.

    `regex` says where it may be. `check`, if given, gets the match and returns where it really ends, or
    `None` if it is none. `max_length` is the most characters that deciding about a match can take, lookahead
    included; without it a streamed step is held back until it is whole. `tail` is a class of characters that
    belong to the match as long as they follow, however many.
    """

    name: str
    regex: str | re.Pattern[str]
    max_length: int | None = None
    check: Callable[[re.Match[str]], int | None] | None = None
    tail: str | None = None

    def compile(self) -> re.Pattern[str]:
        """The compiled expression. Raises `ConfigurationError` if it is none, or matches nothing at all."""
        try:
            compiled = re.compile(self.regex)
        except re.error as error:
            raise ConfigurationError(f"pattern {self.name!r} is no regular expression: {error}") from None
        if compiled.fullmatch(""):
            raise ConfigurationError(f"pattern {self.name!r} matches the empty text")
        return compiled


# -- checks ------------------------------------------------------------------------------------------


def _ends(match: re.Match[str]) -> list[int]:
    """Where a match of groups of characters may end: after each group, the longest first."""
    text = match.group()
    ends = [index for index in range(1, len(text)) if text[index - 1].isalnum() and not text[index].isalnum()]
    return [match.end(), *[match.start() + end for end in reversed(ends)]]


def _credit_card(match: re.Match[str]) -> int | None:
    for end in _ends(match):
        digits = [int(c) for c in match.string[match.start() : end] if c.isdigit()]
        if 13 <= len(digits) <= 19 and _luhn(digits) and len(set(digits)) > 1:
            return end
    return None


def _luhn(digits: list[int]) -> bool:
    total = 0
    for index, digit in enumerate(reversed(digits)):
        total += digit if index % 2 == 0 else digit * 2 - 9 * (digit > 4)
    return total % 10 == 0


def _iban(match: re.Match[str]) -> int | None:
    for end in _ends(match):
        text = match.string[match.start() : end].replace(" ", "").upper()
        if 15 <= len(text) <= 34 and int("".join(str(int(c, 36)) for c in text[4:] + text[:4])) % 97 == 1:
            return end
    return None


def _phone(match: re.Match[str]) -> int | None:
    for end in _ends(match):
        if 8 <= sum(c.isdigit() for c in match.string[match.start() : end]) <= 15:
            return end
    return None


def _ip(match: re.Match[str]) -> int | None:
    try:
        ipaddress.ip_address(match.group())
    except ValueError:
        return None
    return match.end() if any(c != ":" for c in match.group()) else None


# -- presets -----------------------------------------------------------------------------------------

_KEY = "|".join(
    [
        r"sk-[A-Za-z0-9_-]{16}",  # OpenAI, Anthropic and many after them
        r"(?:sk|pk|rk)_(?:live|test)_[A-Za-z0-9]{10}",
        r"gh[pousr]_[A-Za-z0-9]{20}",
        r"github_pat_[A-Za-z0-9_]{20}",
        r"glpat-[A-Za-z0-9_-]{16}",
        r"xox[abeprs]-[A-Za-z0-9-]{10}",
        r"(?:AKIA|ASIA)[A-Z0-9]{16}",
        r"AIza[A-Za-z0-9_-]{30}",
        r"hf_[A-Za-z0-9]{20}",
        r"eyJ[A-Za-z0-9_-]{10}",  # JSON Web Token
    ]
)

PATTERNS: Mapping[str, Pattern] = MappingProxyType(
    {
        pattern.name: pattern
        for pattern in (
            Pattern(
                "email",
                r"[\w.%+'-]{1,64}@[\w-]{1,40}(?:\.[\w-]{1,40}){0,3}\.[^\W\d_]{2,24}",
                max_length=256,
            ),
            Pattern(
                "credit_card",
                r"(?<!\d)(?<!\d\.)\d(?:[ -]?\d){12,18}(?!\d)",
                max_length=40,
                check=_credit_card,
            ),
            Pattern(
                "iban",
                r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?!\w)",
                max_length=52,
                check=_iban,
            ),
            Pattern(
                "phone",
                r"(?<![\w.+-])(?:"
                r"\+\d{1,3}(?:[ .\-/]?\(?\d{1,4}\)?){2,6}"  # with a country's code
                r"|\(?[2-9]\d{2}\)?[ .-]?\d{3}[ .-]\d{4}"  # North America
                r"|\(?0\d{1,4}\)?[ ./-]\d{2,4}(?:[ .-]?\d{2,4}){1,3}"  # with a trunk prefix
                r")(?![\w-])",
                max_length=56,
                check=_phone,
            ),
            Pattern(
                "ip",
                r"(?<![\w.])(?:\d{1,3}(?:\.\d{1,3}){3}(?!\w|\.\d)"
                r"|[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?:(?<=:)\d{1,3}(?:\.\d{1,3}){3})?(?![\w:]|\.\d))",
                max_length=60,
                check=_ip,
            ),
            Pattern("api_key", rf"(?<![A-Za-z0-9])(?:{_KEY})", max_length=48, tail=r"[A-Za-z0-9_.=/+-]"),
        )
    }
)
"""`email`, `credit_card` (with Luhn's check), `iban` (with its checksum), `phone`, `ip`, `api_key`.

They find what is written in the usual ways, not what somebody hides on purpose."""
