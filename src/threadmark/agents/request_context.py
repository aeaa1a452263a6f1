"""What the server knows for sure about a request."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, overload

from .._errors import ConfigurationError, ValidationError
from .._ids import check_id
from .._types import Json, Speaker, Thread
from ..memory.thread_spec import ThreadSpec


class RequestContext:
    """Facts that the server has verified, for one call: who asks, where, and values of the application.

    `resource`, `thread` and `speaker` win over the call's own arguments, so what a client sent cannot
    reach another owner's memory or speak in another name. The other `values` (a tier, a locale, a database
    session) are for tools, and for instructions, models, tools and memory given as functions. They are
    never put into a prompt.

        context = RequestContext(resource=session.user_id, tier="pro")
        await agent.generate(text, thread=body["thread"], request_context=context)
    """

    __slots__ = ("_values", "resource", "speaker", "thread")

    def __init__(
        self,
        *,
        resource: str | None = None,
        thread: str | Mapping[str, Json] | Thread | ThreadSpec | None = None,
        speaker: Speaker | None = None,
        **values: Any,
    ) -> None:
        self.resource = None if resource is None else check_id("resource", resource)
        self.thread = thread
        self.speaker = speaker
        self._values = values

    @overload
    def get(self, name: str) -> Any | None: ...
    @overload
    def get(self, name: str, default: Any) -> Any: ...
    def get(self, name: str, default: Any = None) -> Any:
        """The value of `name`, or `default`."""
        return self._values.get(name, default)

    def __getitem__(self, name: str) -> Any:
        """The value of `name`. Raises `ValidationError` naming it when it is missing."""
        try:
            return self._values[name]
        except KeyError:
            raise ValidationError(f"the request context has no {name!r}") from None

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        # Names only: values may be secrets, and this ends up in logs.
        return f"RequestContext(resource={self.resource!r}, values={sorted(self._values)!r})"


def context_check(annotation: Any) -> Callable[[RequestContext], None] | None:
    """What raises `ValidationError`, naming the fields, for a context whose values are not of this type.

    `None` for no type. Raises `ConfigurationError` for what describes no fields.
    """
    if annotation is None:
        return None
    import pydantic

    try:
        check = pydantic.TypeAdapter[Any](annotation).validate_python
    except (pydantic.PydanticUserError, pydantic.PydanticUndefinedAnnotation) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigurationError(f"request_context_schema describes no values: {reason}") from None
    invalid = pydantic.ValidationError

    def checked(context: RequestContext) -> None:
        try:
            check({name: context[name] for name in context})
        except invalid as error:
            # Without the values: they may be secrets.
            problems = [
                f"{'.'.join(map(str, item['loc']))}: {item['msg']}" if item["loc"] else item["msg"]
                for item in error.errors(include_url=False, include_context=False, include_input=False)
            ]
            raise ValidationError(f"the request context does not fit: {'; '.join(problems)}") from None

    return checked
