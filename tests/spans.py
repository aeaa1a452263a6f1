"""Spans that are kept in memory, and shown as the tree that they make."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from threadmark import configure_tracing


class Spans:
    """What was exported since the beginning; a span is exported once, when it ends."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.begun: list[Any] = []
        self.provider.add_span_processor(_Begun(self.begun))

    def all(self) -> list[ReadableSpan]:
        """In the order in which they began. Each that began has ended, exactly once."""
        ended = sorted(self._exporter.get_finished_spans(), key=lambda span: span.start_time or 0)
        ids = [span.context.span_id for span in ended if span.context is not None]
        assert len(ids) == len(set(ids))
        assert set(ids) == {span.context.span_id for span in self.begun}
        return ended

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.all() if span.name == name]

    def one(self, name: str) -> dict[str, Any]:
        """The attributes of the only span of this name."""
        (span,) = self.named(name)
        return dict(span.attributes or {})

    def tree(self) -> str:
        """Names, indented below their parents; "!" is the type of an error, "~" a cancellation, and "<-" the
        names of the spans that one is linked to."""
        spans = self.all()
        names = {span.context.span_id: span.name for span in spans if span.context is not None}
        lines: list[str] = []

        def show(parent: int | None, depth: int) -> None:
            for span in spans:
                if (span.parent.span_id if span.parent is not None else None) != parent:
                    continue
                attributes = span.attributes or {}
                marks = [f"!{attributes['error.type']!s}"] if "error.type" in attributes else []
                assert bool(marks) == (span.status.status_code.name == "ERROR")
                marks += ["~"] if attributes.get("threadmark.cancelled") else []
                marks += [f"<-{names.get(link.context.span_id, '?')}" for link in span.links]
                lines.append("  " * depth + " ".join([span.name, *marks]))
                assert span.context is not None
                show(span.context.span_id, depth + 1)

        show(None, 0)
        return "\n".join(["", *lines, ""])

    def text(self) -> str:
        """All that any span tells."""
        return "\n".join(span.to_json() for span in self.all())


class _Begun(SimpleSpanProcessor):
    def __init__(self, begun: list[Any]) -> None:
        super().__init__(InMemorySpanExporter())
        self._begun = begun

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        self._begun.append(span)


@contextmanager
def recorded(*, content: bool | None = None) -> Iterator[Spans]:
    """Trace within the block."""
    spans = Spans()
    configure_tracing(provider=spans.provider, content=content)
    try:
        yield spans
    finally:
        configure_tracing()
