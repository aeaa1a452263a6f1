"""Values that an observer keeps up to date about a thread, beside its observations."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..._errors import ConfigurationError, ValidationError
from ..._ids import check_metadata
from ..._types import Json

WORKING_MEMORY = "working-memory"
"""The slug of working memory, where the observer keeps it."""

RESERVED = frozenset({"current-task", "suggested-response", "thread-title", "observations", WORKING_MEMORY})
"""Slugs of what observers say anyway."""

MAX_VALUE = 20_000
"""Longest value of an extractor, in characters of JSON."""

_NOT_SLUG = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True, kw_only=True)
class Extractor:
    """A value that the observer, or the reflector, extracts, kept with the thread's log under its slug.

    Args:
        name: What it is, for people; the slug is made of it: "Open questions" is "open-questions".
        instructions: What the observer shall extract.
        schema: What the value must be: a Pydantic model, a dataclass, a type, ... Default: text.
        include_previous: Show the observer the value so far; default true.
        on_extracted: Called with the new value and the one before (or `None`), plain or async; what it
            returns is stored.

    A value that does not fit, or a function that raises, leaves the value as it was: observing goes on.
    Raises `ConfigurationError` for a name without letters or digits, or a reserved one.
    """

    name: str
    instructions: str
    schema: Any = None
    include_previous: bool = True
    on_extracted: Callable[[Json, Json], Json | Awaitable[Json]] | None = None
    slug: str = field(init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not isinstance(self.instructions, str):
            raise ConfigurationError("an extractor's name and instructions must be strings")
        slug = _NOT_SLUG.sub("-", self.name.casefold()).strip("-")
        if not slug:
            raise ConfigurationError(f"the extractor's name {self.name!r} has no letter or digit of ASCII")
        if slug in RESERVED:
            raise ConfigurationError(f"the extractor's name {self.name!r} is reserved")
        if self.on_extracted is not None and not callable(self.on_extracted):
            raise ConfigurationError("on_extracted must be a function")
        object.__setattr__(self, "slug", slug)

    def request(self) -> str:
        """What the observer is asked for, as one paragraph."""
        form = "text"
        if self.schema is not None:
            from pydantic import TypeAdapter

            schema = TypeAdapter(self.schema).json_schema()
            form = f"JSON on one line that fits {json.dumps(schema, separators=(',', ':'))}"
        return f"{self.slug}: {self.instructions.strip()} (The value is {form}.)"

    def read(self, text: str) -> Json:
        """The value that an observer wrote. Raises `ValidationError` when it does not fit."""
        text = text.strip()
        if len(text) > MAX_VALUE:
            raise ValidationError(f"the value is longer than {MAX_VALUE:,} characters")
        if self.schema is None:
            return text
        from pydantic import TypeAdapter
        from pydantic import ValidationError as Invalid

        adapter: TypeAdapter[Any] = TypeAdapter(self.schema)
        try:
            value = adapter.dump_python(adapter.validate_json(text), mode="json")
        except Invalid as error:
            raise ValidationError(f"the value does not fit: {error.error_count()} errors") from None
        check_metadata({"value": value})
        return value

    async def accept(self, value: Json, before: Json) -> Json:
        """What to store for a new value. Raises what `on_extracted` does."""
        if self.on_extracted is None:
            return value
        made = self.on_extracted(value, before)
        made = await made if inspect.isawaitable(made) else made
        check_metadata({"value": made})
        return made


async def accepted(
    extractors: tuple[Extractor, ...],
    written: Mapping[str, str],
    before: Mapping[str, Json],
    clean: Callable[[str], str],
    notes: list[str],
) -> dict[str, Json]:
    """The values that fit. One that does not, or whose function raises, stays as it was: `notes` say so."""
    found: dict[str, Json] = {}
    for item in extractors:
        if item.slug not in written:
            continue
        try:
            value = item.read(clean(written[item.slug]))
            found[item.slug] = await item.accept(value, before.get(item.slug))
        except Exception as error:
            notes.append(f"the value {item.slug!r} was not taken: {type(error).__name__}")
    return found


def previous(extractors: tuple[Extractor, ...], values: Mapping[str, Json]) -> dict[str, Json]:
    """The values so far that an observer is shown."""
    return {
        item.slug: values[item.slug] for item in extractors if item.include_previous and item.slug in values
    }
