"""The schema of the answers that a suspended call takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .._errors import ConfigurationError, ValidationError
from .._types import Json


@dataclass(frozen=True, slots=True, eq=False)
class ResumeSchema:
    """`schema` as JSON schema; `validate` gives the value of an answer, or raises `ValidationError`."""

    schema: Mapping[str, Json]
    validate: Callable[[Json], Any]

    @classmethod
    def of(cls, tool_name: str, annotation: Any) -> ResumeSchema:
        """The schema of a type. Raises `ConfigurationError` if there is none."""
        import pydantic

        try:
            adapter = pydantic.TypeAdapter[Any](annotation)
            schema = adapter.json_schema()
        except (pydantic.PydanticSchemaGenerationError, pydantic.PydanticUserError) as error:
            reason = str(error).partition("\n")[0]
            raise ConfigurationError(f"cannot describe the answers of tool {tool_name!r}: {reason}") from None
        check, invalid = adapter.validate_python, pydantic.ValidationError

        def validate(data: Json) -> Any:
            try:
                return check(data)
            except invalid as error:
                problems = [
                    f"{'.'.join(map(str, item['loc'])) or 'answer'}: {item['msg']}"
                    for item in error.errors(include_url=False, include_context=False, include_input=False)
                ]
                raise ValidationError(
                    f"the answer does not fit tool {tool_name!r}: {'; '.join(problems)}"
                ) from None

        return cls(schema, validate)
