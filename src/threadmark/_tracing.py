"""Spans of OpenTelemetry: one mechanism for agents, models, tools, memory, workflows and background work.

Names and attributes follow OpenTelemetry's semantic conventions for generative AI; ours begin with
"threadmark.". Only its API is used, and only where the application has set a tracer provider up: else
nothing is imported and `span` gives an object that does nothing. No text of a conversation is in a span
unless `configure_tracing(content=True)`, or the conventions' environment variable, asks for it.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from ._codec import to_json
from ._errors import ConfigurationError
from ._types import Json, Usage

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer, TracerProvider

log = logging.getLogger("threadmark")

Attributes: TypeAlias = Mapping[str, Any]
"""Attributes of a span: text, numbers, flags, or lists of one of them. What is `None` is left out."""

CONTENT_VARIABLE: Final = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.41.0"


class _Settings:
    provider: TracerProvider | None = None
    content: bool | None = None
    enabled = True
    made: tuple[Any, Tracer] | None = None  # the tracer, and the provider that it is of


_settings = _Settings()


def configure_tracing(
    *, provider: TracerProvider | None = None, content: bool | None = None, enabled: bool = True
) -> None:
    """Say how this process traces; each call replaces the one before, and without arguments undoes them.

    Args:
        provider: Where spans go; default: OpenTelemetry's global tracer provider, if there is one.
        content: Whether spans hold what was said, searched for and given to tools; default: no, unless
            `OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT` is "true".
        enabled: False makes no spans at all.

    Raises `ConfigurationError` for a provider that is none.
    """
    if provider is not None and not callable(getattr(provider, "get_tracer", None)):
        raise ConfigurationError(
            f"provider must be a TracerProvider of OpenTelemetry, not {type(provider).__name__}"
        )
    _settings.provider, _settings.content, _settings.enabled = provider, content, enabled
    _settings.made = None


def captures_content() -> bool:
    """Whether spans may hold what was said."""
    if _settings.content is not None:
        return _settings.content
    return os.environ.get(CONTENT_VARIABLE, "").lower() in ("true", "1", "span_only", "span_and_event")


class Span:
    """A span to which facts are added; a context manager, which begins and ends it. This one does nothing."""

    __slots__ = ()

    is_recording = False

    def set(self, attributes: Attributes) -> None:
        """Add attributes."""

    def content(self, name: str, make: Callable[[], Json]) -> None:
        """Add what was said, if that is asked for: text as it is, anything else as JSON text."""

    def fail(self, error: BaseException | str) -> None:
        """Mark it as failed: by the class of the error, since its message may quote what was said."""

    def link(self, origin: str | None) -> None:
        """Link it to another span, of any process, by that one's `traceparent`."""

    @property
    def traceparent(self) -> str | None:
        """What identifies the span to other processes, in the form of W3C Trace Context."""
        return None

    def __enter__(self) -> Span:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


NO_SPAN: Final = Span()


def is_tracing() -> bool:
    """Whether spans are made."""
    return _tracer() is not None


def span(
    name: str,
    attributes: Attributes | None = None,
    *,
    kind: Literal["internal", "client"] = "internal",
    root: bool = False,
    origin: str | None = None,
) -> Span:
    """A span for the time of a `with` block; what is called in the block has its spans below it.

    With `root` it begins a trace of its own; `origin` is the `traceparent` of a span it is linked to.
    """
    tracer = _tracer()
    return NO_SPAN if tracer is None else _Recorded(tracer, name, attributes or {}, kind, root, origin)


def current_traceparent() -> str | None:
    """The `traceparent` of the span that is open here, if there is one."""
    if _tracer() is None:
        return None
    from opentelemetry import trace

    return _to_traceparent(trace.get_current_span())


def usage_attributes(usage: Usage) -> Attributes:
    """Tokens, as the conventions name them."""
    return {
        "gen_ai.usage.input_tokens": usage.input_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cache_read_tokens or None,
        "gen_ai.usage.cache_creation.input_tokens": usage.cache_write_tokens or None,
    }


class _Recorded(Span):
    """A span that a tracer makes. A tracer that fails is logged, and disturbs nothing."""

    __slots__ = ("_attributes", "_kind", "_name", "_origin", "_root", "_span", "_token", "_tracer")

    def __init__(
        self, tracer: Tracer, name: str, attributes: Attributes, kind: str, root: bool, origin: str | None
    ) -> None:
        self._tracer = tracer
        self._name = _sendable(name)
        self._attributes = attributes
        self._kind = kind
        self._root = root
        self._origin = origin
        self._span: Any = None
        self._token: Any = None

    @property
    def is_recording(self) -> bool:  # type: ignore[override]
        return self._span is not None and bool(self._span.is_recording())

    def set(self, attributes: Attributes) -> None:
        if self._span is not None:
            self._span.set_attributes(_known(attributes))

    def content(self, name: str, make: Callable[[], Json]) -> None:
        if not self.is_recording or not captures_content():
            return
        try:
            made = make()
            self._span.set_attribute(name, _sendable(made if isinstance(made, str) else to_json(made, name)))
        except Exception as error:
            log.warning("a span has no %s: %s", name, type(error).__name__)

    def fail(self, error: BaseException | str) -> None:
        if self._span is None:
            return
        from opentelemetry.trace import Status, StatusCode

        kind = error if isinstance(error, str) else type(error).__name__
        told = None if isinstance(error, str) or not captures_content() else str(error)
        self._span.set_attribute("error.type", kind)
        self._span.set_status(Status(StatusCode.ERROR, told))

    def link(self, origin: str | None) -> None:
        context = _from_traceparent(origin)
        if context is not None and self._span is not None:
            self._span.add_link(context)

    @property
    def traceparent(self) -> str | None:
        return None if self._span is None else _to_traceparent(self._span)

    def __enter__(self) -> Span:
        try:
            from opentelemetry import context, trace

            linked = _from_traceparent(self._origin)
            self._span = self._tracer.start_span(
                self._name,
                context=context.Context() if self._root else None,
                kind=trace.SpanKind.CLIENT if self._kind == "client" else trace.SpanKind.INTERNAL,
                attributes=_known(self._attributes),
                links=[] if linked is None else [trace.Link(linked)],
            )
            self._token = context.attach(trace.set_span_in_context(self._span))
        except Exception:
            log.exception("the span %r could not be begun", self._name)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._span is None:
            return
        try:
            if self._token is not None:
                from opentelemetry import context

                context.detach(self._token)
            if isinstance(error, Exception):
                self.fail(error)
            elif error is not None and type(error).__name__ in ("CancelledError", "GeneratorExit"):
                self._span.set_attribute("threadmark.cancelled", True)
        except Exception:
            log.exception("the span %r has no status", self._name)
        try:
            self._span.end()
        except Exception:
            log.exception("the span %r could not be ended", self._name)


def _known(attributes: Attributes) -> dict[str, Any]:
    return {
        name: _sendable(value) if isinstance(value, str) else value
        for name, value in attributes.items()
        if value is not None
    }


def _sendable(text: str) -> str:
    """`text` as every exporter can send it: a model may make up a name with half a character in it."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _tracer() -> Tracer | None:
    """The tracer of the provider that was set up; `None` if there is none."""
    provider: Any = _settings.provider
    if not _settings.enabled:
        return None
    if provider is None:
        # Whoever has set a provider up has imported this.
        trace: Any = sys.modules.get("opentelemetry.trace")
        if trace is None:
            return None
        provider = trace.get_tracer_provider()
        if isinstance(provider, (trace.ProxyTracerProvider, trace.NoOpTracerProvider)):
            return None
    made = _settings.made
    if made is None or made[0] is not provider:
        made = _settings.made = (provider, provider.get_tracer("threadmark", schema_url=SCHEMA_URL))
    return made[1]


def _to_traceparent(span: Any) -> str | None:
    context = span.get_span_context()
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


def _from_traceparent(text: object) -> Any:
    """The span context of a `traceparent`; `None` for anything else."""
    if not isinstance(text, str):
        return None
    from opentelemetry.trace import SpanContext, TraceFlags

    parts = text.split("-")
    try:
        trace_id, span_id, flags = (int(part, 16) for part in parts[1:4])
    except ValueError:
        return None
    found = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))
    return found if found.is_valid else None
