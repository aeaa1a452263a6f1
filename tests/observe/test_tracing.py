"""Spans: one for each call of a role's model, with what it used, and without a word of the conversation."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from threadmark import ModelError
from threadmark.memory.observe import tracing

from .build import batch, observer

pytestmark = pytest.mark.anyio


class Recorded:
    """A span as a provider of OpenTelemetry would keep it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.attributes: dict[str, Any] = {}
        self.status: Any = None

    def set_attribute(self, name: str, value: Any) -> None:
        self.attributes[name] = value

    def set_status(self, status: Any) -> None:
        self.status = status

    def __enter__(self) -> Recorded:
        return self

    def __exit__(self, *error: object) -> None:
        pass


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> list[Recorded]:
    """The spans that are begun."""
    from opentelemetry import trace

    found: list[Recorded] = []

    class Tracer:
        def start_as_current_span(self, name: str, **options: Any) -> Recorded:
            assert options == {"record_exception": False, "set_status_on_exception": False}
            found.append(Recorded(name))
            return found[-1]

    monkeypatch.setattr(trace, "get_tracer", lambda name: Tracer())
    return found


async def test_a_span_for_each_call(spans: list[Recorded]) -> None:
    """With role, model and tokens, by the conventions for generative AI."""
    made, _ = observer("- (high fact) Ana has a secret cat. [m1]")
    await made.observe(batch("I have a secret cat."))
    (span,) = spans
    assert span.name == "observer scripted:model"
    assert span.attributes["gen_ai.operation.name"] == "chat"
    assert span.attributes["gen_ai.request.model"] == "model"
    assert span.attributes["threadmark.role"] == "observer"
    assert span.attributes["gen_ai.usage.input_tokens"] > 0
    assert span.attributes["gen_ai.usage.output_tokens"] > 0
    assert "secret" not in str(span.attributes)


async def test_a_failure_is_told_by_its_class(spans: list[Recorded]) -> None:
    """The message of an error could quote the conversation."""
    made, _ = observer(ModelError("bad prompt: secret cat", status=400))
    with pytest.raises(ModelError):
        await made.observe(batch("I have a secret cat."))
    assert spans[0].attributes["error.type"] == "ModelError"
    assert spans[0].status is not None
    assert "secret" not in str(spans[0].attributes)


async def test_without_opentelemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is missed."""
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with tracing.span("name", a=1) as span:
        span.set(b=2)
    made, _ = observer("NOTHING m1")
    await made.observe(batch("Hello."))
