"""What working memory holds and who may change it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from ..._codec import from_json, to_json
from ..._errors import ConfigurationError, StoreError, ValidationError
from ..._ids import check_count, check_metadata, check_text
from ..._types import Json

DEFAULT_TEMPLATE = """# About this person
- **Name**:
- **Where they live**:
- **Work**:
- **Likes and dislikes**:
- **Goals**:
- **People who matter to them**:
- **Dates and plans**:
- **How they want to be helped**:
- **Other facts**:
"""
"""The template of a memory of one person."""

PARTICIPANTS_TEMPLATE = """# This conversation
## Participants
## Open questions
## Decisions
"""
"""The template of a memory of a conversation of several people."""

MAX_TEMPLATE = 100_000


@dataclass(frozen=True, kw_only=True)
class WorkingMemory:
    """Settings of working memory; `Memory(..., working_memory=True)` takes them all as they are here.

    Args:
        scope: "resource" shares it between all threads of a resource, "thread" keeps one for each.
        template: Markdown whose empty fields tell the model what to note. Not together with `schema`.
        schema: What it holds as a JSON object: a Pydantic model, a dataclass, a TypedDict, or a JSON schema.
        agent_managed: Whether the agent gets a tool to change it. Without, only your code does.
        read_only: The model sees it and nothing of a turn changes it.
        participants: Keep the list of a conversation's speakers in it, without the model's help; for a
            template only, by default when the scope is "thread".
        max_characters: Longest content; a longer one is refused with an error the model sees.
    """

    scope: Literal["resource", "thread"] = "resource"
    template: str | None = None
    schema: Any = None
    agent_managed: bool = True
    read_only: bool = False
    participants: bool | None = None
    max_characters: int = 20_000

    def __post_init__(self) -> None:
        if self.scope not in ("resource", "thread"):
            raise ConfigurationError(f"scope must be 'resource' or 'thread', not {self.scope!r}")
        if self.template is not None and self.schema is not None:
            raise ConfigurationError("give working memory a template or a schema, not both")
        if self.template is not None and not isinstance(self.template, str):
            raise ConfigurationError(f"template must be a string, not {type(self.template).__name__}")
        if self.template is not None and len(self.template) > MAX_TEMPLATE:
            raise ConfigurationError(f"the template is longer than {MAX_TEMPLATE:,} characters")
        check_count("max_characters", self.max_characters, least=1)
        if self.template is not None and len(self.template) > self.max_characters:
            raise ConfigurationError(
                f"the template is {len(self.template):,} characters long, and max_characters is "
                f"{self.max_characters:,}: it could never be filled in"
            )
        if self.participants and self.schema is not None:
            raise ConfigurationError("participants are kept in a template, not in a schema")
        if self.schema is not None:
            self._check_schema()

    def _check_schema(self) -> None:
        """Refuse at once what could only fail when something is written, and then to the model."""
        if isinstance(self.schema, Mapping):
            try:
                import jsonschema
            except ImportError:
                raise ConfigurationError(
                    "a JSON schema for working memory needs `pip install 'threadmark[schema]'`"
                ) from None
            try:
                jsonschema.Draft202012Validator.check_schema(dict(self.schema))
            except jsonschema.SchemaError as error:
                raise ConfigurationError(f"not a JSON schema: {error.message[:500]}") from None
        try:
            kind = self.json_schema.get("type", "object")
        except Exception as error:  # whatever Pydantic says of it
            raise ConfigurationError(
                f"no schema of working memory can be made of {self.schema!r}: {str(error)[:500]}"
            ) from None
        if kind != "object":
            raise ConfigurationError(f"the schema of working memory must be of an object, not of {kind!r}")

    @property
    def keeps_participants(self) -> bool:
        wanted = self.scope == "thread" if self.participants is None else self.participants
        return wanted and self.schema is None

    @property
    def template_text(self) -> str:
        """The template in force."""
        if self.template is not None:
            return self.template
        return PARTICIPANTS_TEMPLATE if self.keeps_participants else DEFAULT_TEMPLATE

    @property
    def writable(self) -> bool:
        """Whether the agent gets a tool."""
        return self.agent_managed and not self.read_only

    # -- content -------------------------------------------------------------------------------------

    def read(self, content: str | None) -> Json:
        """The value of stored content: an object where there is a schema, else text; `None` without content.

        Text stored before a schema was chosen is kept under the key "notes" ("earlier_notes" if the schema
        has notes of its own). Content that is JSON but no object raises `ValidationError`: it is not dropped.
        """
        if content is None or self.schema is None:
            return content
        if not content.lstrip().startswith(("{", "[", '"')):
            return {self._notes: content}
        try:
            value = from_json(content)
        except StoreError:
            return {self._notes: content}
        if not isinstance(value, dict):
            raise ValidationError(
                "the stored working memory is not a JSON object; set a new value, or revert to a version "
                "that is one"
            )
        return value

    def write(self, value: Json, *, limit: bool = True) -> str:
        """The content to store for a value. Raises `ValidationError` if it does not fit.

        Without `limit` it may be longer than `max_characters`: facts noted at the same time are all kept.
        """
        if self.schema is None:
            if not isinstance(value, str):
                raise ValidationError(f"working memory is text, not {type(value).__name__}")
            content = value
        else:
            if not isinstance(value, Mapping):
                raise ValidationError(f"working memory is an object, not {type(value).__name__}")
            content = to_json(self.validate(check_metadata(value, kind="working memory")), "working memory")
        check_text("working memory", content)
        if limit and len(content) > self.max_characters:
            raise ValidationError(
                f"working memory would be {len(content):,} characters long; at most "
                f"{self.max_characters:,} fit: shorten it"
            )
        return content

    def validate(self, value: dict[str, Json]) -> dict[str, Json]:
        """`value` if the schema takes it. Notes kept from before the schema are not the schema's business."""
        notes = {key: value[key] for key in (self._notes,) if key in value and key not in self._properties}
        rest = {key: item for key, item in value.items() if key not in notes}
        self._check(rest)
        return {**rest, **notes}

    @cached_property
    def json_schema(self) -> dict[str, Json]:
        """The schema as JSON schema."""
        if isinstance(self.schema, Mapping):
            return dict(self.schema)
        from pydantic import TypeAdapter

        return TypeAdapter(self.schema).json_schema()

    @property
    def _notes(self) -> str:
        return "earlier_notes" if "notes" in self._properties else "notes"

    @property
    def _properties(self) -> Mapping[str, Json]:
        properties = self.json_schema.get("properties", {})
        return properties if isinstance(properties, Mapping) else {}

    def _check(self, value: dict[str, Json]) -> None:
        """Refuse what does not fit. A field that has no value yet is not an error: memory grows."""
        if isinstance(self.schema, Mapping):
            import jsonschema

            problems = sorted(
                jsonschema.Draft202012Validator(_without_required(self.json_schema)).iter_errors(value),
                key=str,
            )
            if problems:
                text = "; ".join(f"{error.json_path}: {error.message}" for error in problems[:5])
                raise ValidationError(f"working memory does not fit its schema: {text[:1000]}")
            return
        from pydantic import TypeAdapter
        from pydantic import ValidationError as Invalid

        try:
            TypeAdapter(self.schema).validate_python(value)
        except Invalid as error:
            wrong = [
                f"{'.'.join(map(str, item['loc']))}: {item['msg']}"
                for item in error.errors(include_url=False, include_input=False)
                if item["type"] != "missing"
            ]
            if wrong:
                raise ValidationError(
                    f"working memory does not fit its schema: {'; '.join(wrong[:5])[:1000]}"
                ) from None


def _without_required(schema: Json) -> Json:
    if isinstance(schema, Mapping):
        return {key: _without_required(item) for key, item in schema.items() if key != "required"}
    if isinstance(schema, list):
        return [_without_required(item) for item in schema]
    return schema
