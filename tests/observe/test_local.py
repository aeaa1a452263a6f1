"""A small real model, whose text is nonsense, as observer and reflector: nothing it says is believed."""

from __future__ import annotations

import os
from collections.abc import Awaitable
from typing import TypeVar

import pytest

from threadmark import Agent, ConfigurationError, Memory, ModelError
from threadmark.memory.observe._types import ObservingError
from threadmark.memory.observe.observer import ModelObserver
from threadmark.memory.observe.reflector import ModelReflector
from threadmark.memory.observe.settings import (
    ObservationalMemory,
    ObservationSettings,
    ReflectionSettings,
)
from threadmark.models import Model, ModelRequest, infer_model
from threadmark.testing import ScriptedModel

from .build import batch, row, to_reflect

pytestmark = pytest.mark.anyio

T = TypeVar("T")

TALK = (
    "Hi, I am Lena Moser and my locker number is 4711.",
    "Nice to meet you, Lena.",
    "Please always answer in French.",
    "D'accord.",
)


@pytest.fixture(scope="module")
def local() -> Model:
    """The small model. Required in CI; elsewhere its tests are skipped where it is not installed."""
    try:
        return infer_model("local")
    except ConfigurationError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(reason=f"no local model: {error}")


async def outcome(work: Awaitable[T]) -> T | str:
    """What came of it, or the reason for which there is nothing to store."""
    try:
        return await work
    except ObservingError as error:
        return error.reason


async def test_as_observer(local: Model) -> None:
    """Each message is cited by a row, explicitly without anything to note, or left to be shown as it is."""
    settings = ObservationalMemory(
        observation=ObservationSettings(model_settings={"max_tokens": 48, "temperature": 1.0, "seed": 7})
    )
    messages = batch(*TALK)
    result = await outcome(ModelObserver(settings, local).observe(messages))
    if isinstance(result, str):
        assert result in ("empty", "refusal", "unparsable", "no-sources", "loop")
        return
    cited = {source.message_id for item in result.rows for source in item.sources}
    assert cited | set(result.nothing) <= {message.id for message in messages.messages}
    if not result.truncated:
        # What the user said is never written off without the model naming it, twice.
        assert {"a1", "a3"} <= cited | set(result.nothing)


async def test_as_reflector(local: Model) -> None:
    """The rows of high priority keep their numbers and names in whatever stands for them."""
    settings = ObservationalMemory(
        reflection=ReflectionSettings(model_settings={"max_tokens": 48, "temperature": 0})
    )
    rows = (
        row(1, "Lena Moser's locker number is 4711.", priority="high"),
        *(row(n, f"The user asked about topic number {n}.") for n in range(2, 12)),
    )
    result = await outcome(ModelReflector(settings, local).reflect(to_reflect(*rows)))
    if isinstance(result, str):
        assert result in ("empty", "refusal", "unparsable", "invalid")
        return
    standing = [item.text for item in result.rows if "o1" in item.children]
    assert all("4711" in text and "Lena Moser" in text for text in standing)


async def test_a_batch_that_is_too_long_for_it(local: Model) -> None:
    """The refusal of its server is told as it is: the messages stay."""
    with pytest.raises(ModelError):
        await ModelObserver(ObservationalMemory(), local).observe(batch("word " * 6_000))


async def test_a_conversation_loses_nothing(local: Model) -> None:
    """With this model in both roles each message is in the prompt, or covered by a row that names it."""
    seen: list[list[str]] = []

    def reply(request: ModelRequest) -> str:
        seen.append([message.id for message in request.messages])
        return "I see, thank you for telling me."

    settings = ObservationalMemory(
        model=local,
        observation=ObservationSettings(
            message_tokens=60, buffer_tokens=30, model_settings={"max_tokens": 24, "temperature": 1.0}
        ),
        reflection=ReflectionSettings(
            observation_tokens=60, model_settings={"max_tokens": 24, "temperature": 1.0}
        ),
        rest=0.0,
    )
    async with Memory("sqlite://", observational_memory=settings) as memory:
        agent = Agent("helper", model=ScriptedModel(reply), memory=memory)
        thread = memory.resource("ana").thread("t")
        for number in range(2):
            text = f"My locker number {number} is {4711 + number}, and I like it to be near the door."
            result = await agent.generate(text, resource="ana", thread="t")
            assert result.text
            await memory.settled()
            stored = (await thread.messages(per_page=None)).messages
            rows = (await thread.observations.list(view="all", per_page=None)).observations
            cited = {source.message_id for row in rows for source in row.sources if row.visible}
            shown = set(seen[-1])
            for message in stored[:-2]:  # the turn itself was sent as it is
                assert message.id in shown | cited | set(result.context.dropped), (number, message.text)
            assert {source.message_id for row in rows for source in row.sources} <= {m.id for m in stored}
        assert await thread.observations.jobs()
