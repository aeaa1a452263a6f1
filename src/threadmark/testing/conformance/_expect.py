"""Assertions that explain themselves under any test runner.

Values are compared with their exact types (`1`, `True` and `1.0` differ, as `0.0` and `-0.0` do), since
that is what a database likes to lose. Only mappings among themselves, and lists and tuples, are
interchangeable. A failure names the first place where the two differ.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime
from typing import Any, TypeVar

from ..._errors import ConflictError, NotFoundError

_Error = TypeVar("_Error", bound=BaseException)


def same(expected: object, actual: object, why: str) -> None:
    """Fail with `why` and the first difference, unless `actual` equals `expected` in value and type."""
    found = difference(expected, actual)
    if found:
        raise AssertionError(f"{why}\n{found}")


def holds(condition: object, why: str) -> None:
    """Fail with `why` unless `condition` is true."""
    if not condition:
        raise AssertionError(why)


async def refuses(
    error: type[_Error] | tuple[type[_Error], ...], operation: Awaitable[object], why: str
) -> _Error:
    """Return the error that `operation` ends in; fail with `why` if it ends in another one, or well."""
    try:
        result = await operation
    except error as caught:
        return caught
    except Exception as other:
        raise AssertionError(
            f"{why}\nexpected {_names(error)}, got {type(other).__name__}: {other}"
        ) from other
    raise AssertionError(f"{why}\nexpected {_names(error)}, got the result {_short(result)}")


async def settle(tasks: Sequence[Awaitable[Any]]) -> list[Any]:
    """Run all to their end, and give results and errors; raise errors that no contract knows."""
    done = await asyncio.gather(*tasks, return_exceptions=True)
    for one in done:
        if isinstance(one, BaseException) and not isinstance(one, (ConflictError, NotFoundError)):
            raise one
    return done


def difference(expected: object, actual: object, path: str = "value") -> str | None:
    """The first place where the two differ, in words, or `None` if they are the same."""
    if isinstance(expected, Mapping) and isinstance(actual, Mapping):
        return _mappings(expected, actual, path)
    if isinstance(expected, (list, tuple)) and isinstance(actual, (list, tuple)):
        return _sequences(expected, actual, path)
    if type(expected) is not type(actual):
        return (
            f"{path}: expected {_short(expected)} ({type(expected).__name__}), "
            f"got {_short(actual)} ({type(actual).__name__})"
        )
    if is_dataclass(expected) and not isinstance(expected, type):
        for name in [item.name for item in fields(expected)]:
            found = difference(getattr(expected, name), getattr(actual, name), f"{path}.{name}")
            if found:
                return found
        return None
    if isinstance(expected, datetime) and isinstance(actual, datetime):
        if expected != actual or expected.utcoffset() != actual.utcoffset():
            return f"{path}: expected {expected.isoformat()}, got {actual.isoformat()}"
        return None
    # `repr` tells 0.0 from -0.0, which are equal.
    equal = repr(expected) == repr(actual) if isinstance(expected, float) else expected == actual
    return None if equal else f"{path}: {_contrast(expected, actual)}"


def _mappings(expected: Mapping[Any, Any], actual: Mapping[Any, Any], path: str) -> str | None:
    for key, value in expected.items():
        if key not in actual:
            return f"{path}: the key {key!r} is missing (expected {_short(value)})"
        found = difference(value, actual[key], f"{path}[{key!r}]")
        if found:
            return found
    for key in actual:
        if key not in expected:
            return f"{path}: unexpected key {key!r} with {_short(actual[key])}"
    return None


def _sequences(
    expected: list[Any] | tuple[Any, ...], actual: list[Any] | tuple[Any, ...], path: str
) -> str | None:
    for index, (one, other) in enumerate(zip(expected, actual, strict=False)):
        found = difference(one, other, f"{path}[{index}]")
        if found:
            return found
    if len(expected) != len(actual):
        return (
            f"{path}: expected {len(expected)} items {_short(expected)}, got {len(actual)} {_short(actual)}"
        )
    return None


def _contrast(expected: object, actual: object) -> str:
    if isinstance(expected, (str, bytes)) and isinstance(actual, (str, bytes)) and len(expected) > 60:
        at = next(
            (i for i, (a, b) in enumerate(zip(expected, actual, strict=False)) if a != b),
            min(len(expected), len(actual)),
        )
        start = max(0, at - 10)
        return (
            f"differ from index {at} (lengths {len(expected)} and {len(actual)}): expected "
            f"...{expected[start : at + 20]!r}..., got ...{actual[start : at + 20]!r}..."
        )
    return f"expected {_short(expected)}, got {_short(actual)}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:180]}... ({len(text)} characters)"


def _names(error: type[BaseException] | tuple[type[BaseException], ...]) -> str:
    return " or ".join([one.__name__ for one in (error if isinstance(error, tuple) else (error,))])
