"""Spans of OpenTelemetry around the work of each role, where its API is installed; nothing otherwise.

They follow the semantic conventions for generative AI. No text of a conversation is ever in them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..._types import Usage


class Span:
    """A span to which tokens and outcomes are added; without OpenTelemetry it does nothing."""

    __slots__ = ("_span",)

    def __init__(self, span: Any = None) -> None:
        self._span = span

    def set(self, **attributes: str | int | float | bool | None) -> None:
        """Set attributes; a name's `__` stands for a dot."""
        if self._span is not None:
            for name, value in attributes.items():
                if value is not None:
                    self._span.set_attribute(name.replace("__", "."), value)

    def use(self, usage: Usage, model: str | None = None) -> None:
        """Record what a model used."""
        self.set(
            gen_ai__usage__input_tokens=usage.input_tokens,
            gen_ai__usage__output_tokens=usage.output_tokens,
            gen_ai__usage__cache_read__input_tokens=usage.cache_read_tokens,
            gen_ai__response__model=model,
        )


@contextmanager
def span(name: str, **attributes: str | int | float | bool | None) -> Iterator[Span]:
    """A span called `name` for the time of the block. An exception marks it as failed, by its class only."""
    try:
        from opentelemetry import trace
    except ImportError:
        yield Span()
        return
    tracer = trace.get_tracer("threadmark")
    with tracer.start_as_current_span(name, record_exception=False, set_status_on_exception=False) as made:
        held = Span(made)
        held.set(**attributes)
        try:
            yield held
        except BaseException as error:
            made.set_attribute("error.type", type(error).__name__)
            made.set_status(trace.StatusCode.ERROR)
            raise
