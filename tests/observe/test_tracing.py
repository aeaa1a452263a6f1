"""Spans: one for each call of a role's model, with what it used, and without a word of the conversation."""

from __future__ import annotations

import pytest

from spans import Spans
from threadmark import ModelError

from .build import batch, observer

pytestmark = pytest.mark.anyio


async def test_a_span_for_each_call(spans: Spans) -> None:
    """With role, model and tokens, by the conventions for generative AI."""
    made, _ = observer("- (high fact) Ana has a secret cat. [m1]")
    await made.observe(batch("I have a secret cat."))
    asked = spans.one("chat model")
    assert asked["gen_ai.operation.name"] == "chat"
    assert asked["gen_ai.request.model"] == "model"
    assert asked["threadmark.role"] == "observer"
    assert asked["threadmark.job_id"]
    assert asked["gen_ai.usage.input_tokens"] > 0
    assert asked["gen_ai.usage.output_tokens"] > 0
    assert "secret" not in spans.text()


async def test_a_failure_is_told_by_its_class(spans: Spans) -> None:
    """The message of an error could quote the conversation."""
    made, _ = observer(ModelError("bad prompt: secret cat", status=400))
    with pytest.raises(ModelError):
        await made.observe(batch("I have a secret cat."))
    assert spans.tree() == "\nchat model !ModelError\n"
    assert "secret" not in spans.text()
