"""Values that go through a run's record: to JSON and back to their type."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from .._codec import to_json
from .._errors import ConfigurationError, ValidationError
from .._types import Json


class Shape:
    """The type of a value, anything Pydantic understands; `None` is any JSON."""

    def __init__(self, type: Any) -> None:
        self._type = type

    @cached_property
    def _adapter(self) -> Any:
        import pydantic

        try:
            if self._type is None:  # NaN is refused, and not made null
                return pydantic.TypeAdapter(Any, config=pydantic.ConfigDict(ser_json_inf_nan="constants"))
            return pydantic.TypeAdapter(self._type)
        except (pydantic.PydanticSchemaGenerationError, pydantic.PydanticUserError, TypeError) as error:
            reason = str(error).partition("\n")[0]
            raise ConfigurationError(f"{self._type!r} cannot go through JSON: {reason}") from None

    def __str__(self) -> str:
        if self._type is None:
            return "JSON"
        return getattr(self._type, "__name__", None) or str(self._type)

    def check(self) -> None:
        """Raise `ConfigurationError` for a type that cannot go through JSON."""
        if self._type is not None:
            _ = self._adapter

    @cached_property
    def json_schema(self) -> Mapping[str, Json] | None:
        """As JSON schema; `None` where anything goes."""
        return None if self._type is None else self._adapter.json_schema()

    def dump(self, value: Any) -> Json:
        """`value` as JSON. Raises `ValidationError` for what is none."""
        import pydantic
        import pydantic_core

        try:
            plain = self._adapter.dump_python(
                value, mode="json", by_alias=True, round_trip=True, warnings="error"
            )
            to_json(plain, "value")
            return plain
        except (pydantic.ValidationError, pydantic_core.PydanticSerializationError, ValueError) as error:
            lines = [line.strip() for line in str(error).splitlines()]
            reason = next((line for line in lines if line and not line.endswith("warnings:")), "")
            raise ValidationError(reason[:500]) from None

    def restore(self, plain: Json) -> Any:
        """The value of its JSON. Raises `ValidationError` that names each field that does not fit."""
        import pydantic

        text = to_json(plain, "value")
        try:
            if "\\ud" in text:  # half of a pair, perhaps, which is no JSON to Pydantic
                return self._adapter.validate_python(plain)
            return self._adapter.validate_json(text)
        except pydantic.ValidationError as error:
            problems = [
                f"{'.'.join(map(str, item['loc'])) or 'value'}: {item['msg']}"
                for item in error.errors(include_url=False, include_context=False, include_input=False)
            ]
            raise ValidationError("; ".join(problems[:10])) from None
