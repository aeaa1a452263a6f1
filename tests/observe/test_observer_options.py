"""The options of an observer, each seen from outside."""

from __future__ import annotations

from typing import Any

import pytest

from threadmark import Message, ToolPart
from threadmark.memory.observe._types import ObservingError
from threadmark.memory.observe.extract import Extractor
from threadmark.memory.observe.hooks import ObservationHooks
from threadmark.memory.observe.settings import ContinuationHints, ModelByInputTokens, ObservationSettings
from threadmark.stores.base import Hints
from threadmark.testing import ScriptedModel

from .build import asked, batch, observer

pytestmark = pytest.mark.anyio


async def test_hints_and_titles_as_asked() -> None:
    """Only what is asked for is asked for, and taken."""
    answer = "- (high fact) Ana is here. [m1]\nTASK: t\nNEXT: n\nTITLE: \u201cOslo in March\u201d"
    made, model = observer(answer, observation=ObservationSettings(continuation_hints=False))
    result = await made.observe(batch("I am Ana, I am here."))
    assert (result.hints, result.title) == (None, None)
    assert "TASK" not in model.requests[0].instructions
    made, model = observer(
        answer,
        observation=ObservationSettings(
            continuation_hints=ContinuationHints(current_task=False),
            thread_title=True,
            instruction="Be terse.",
        ),
    )
    result = await made.observe(batch("I am Ana, I am here."))
    assert result.hints == Hints(suggested_response="n")
    assert result.title is not None
    assert "Oslo in March" in result.title
    assert model.requests[0].instructions.endswith("Also:\nBe terse.")
    assert model.requests[0].settings == {"temperature": 0.3}


async def test_extractors() -> None:
    """Values are read by their schema, may be replaced, and one that fails leaves the others alone."""
    settings = ObservationSettings(
        extract=(
            Extractor(name="Open questions", instructions="Questions.", schema=list[str]),
            Extractor(name="Mood", instructions="One word.", on_extracted=lambda new, old: f"{old}, {new}"),
            Extractor(name="Count", instructions="A number.", schema=int, include_previous=False),
        )
    )
    made, model = observer(
        '- (high fact) Ana is here. [m1]\nVALUE open-questions: ["why?"]\n'
        "VALUE mood: glad\nVALUE count: many",
        observation=settings,
    )
    result = await made.observe(batch("I am Ana, I am here.", extracted={"mood": "sad", "count": 3}))
    assert result.extracted == {"open-questions": ["why?"], "mood": "sad, glad"}
    assert any("'count' was not taken" in note for note in result.notes)
    assert 'mood: "sad"' in asked(model)
    assert "count: 3" not in asked(model)
    assert "open-questions: Questions. (The value is JSON" in model.requests[0].instructions


async def test_models_by_size() -> None:
    """Each call goes to the model of its size."""
    small, large = ScriptedModel(["NOTHING m1"]), ScriptedModel(["NOTHING m1"])
    made, _ = observer(model=ModelByInputTokens({3_000: small, 90_000: large}))
    await made.observe(batch("Hello."))
    await made.observe(batch("Hello. " * 3_000))
    assert (len(small.requests), len(large.requests)) == (1, 1)


async def test_hooks() -> None:
    """They see each job begin and end, and may change what is observed and what is stored."""
    seen: list[Any] = []

    async def start(context: Any) -> None:
        seen.append(("start", context.job_id))

    def end(context: Any) -> None:
        seen.append(("end", context.rows, context.usage.requests, context.error))
        raise RuntimeError("logged, and nothing else")

    hooks = ObservationHooks(
        on_observation_start=start,
        on_observation_end=end,
        before_observation=lambda messages: [item for item in messages if "secret" not in item.text],
        after_observation=lambda rows: [item for item in rows if item.priority == "high"],
    )
    made, model = observer("- (high fact) Ana is here. [m1]\n- (low fact) It rains here. [m2]", hooks=hooks)
    result = await made.observe(batch("I am Ana, I am here.", "It rains.", "This is a secret for you only."))
    assert "secret" not in asked(model)
    assert [item.text for item in result.rows] == ["Ana is here."]
    assert set(result.nothing) == {"a2", "a3"}
    assert seen == [("start", "job"), ("end", 1, 1, None)]
    made, _ = observer(
        "", "", hooks=ObservationHooks(on_observation_end=lambda context: seen.append(context.error))
    )
    with pytest.raises(ObservingError):
        await made.observe(batch("I am Ana, I am here."))
    assert seen[-1] == "ObservingError"

    def broken(messages: Any) -> Any:
        raise RuntimeError("x")

    made, model = observer("NOTHING m1", hooks=ObservationHooks(before_observation=broken))
    with pytest.raises(ObservingError, match="before_observation raised RuntimeError"):
        await made.observe(batch("Hello."))
    assert not model.requests


async def test_nothing_of_ours_to_show() -> None:
    """A message that holds only calls of memory's own tools needs no model."""
    output = {"threadmark.recall": ["a0"]}
    own = ToolPart(tool_call_id="1", tool_name="recall", args={}, state="result", output=output)
    made, model = observer()
    result = await made.observe(batch(Message(role="assistant", parts=[own], id="x")))
    assert (result.rows, result.nothing, model.requests) == ((), ("x",), [])
    theirs = ToolPart(
        tool_call_id="1", tool_name="recall", args={}, state="result", output="a product is recalled"
    )
    made, model = observer("- (medium tool) A product is recalled. [m1.1]")
    assert len((await made.observe(batch(Message(role="assistant", parts=[theirs])))).rows) == 1


async def test_what_people_cannot_do_is_no_refusal() -> None:
    """A line in the first person is a refusal only if it speaks of the task."""
    made, _ = observer(
        "- (high fact) I can't eat gluten, she says. [m1]\n- I'm sorry, I can't help with that. [m1]"
    )
    result = await made.observe(batch("I can't eat gluten."))
    assert [item.text for item in result.rows] == ["I can't eat gluten, she says."]


def test_the_version_follows_the_instructions() -> None:
    """The same settings give the same version, other instructions another."""
    plain, _ = observer()
    again, _ = observer()
    other, _ = observer(observation=ObservationSettings(instruction="x"))
    assert plain.version == again.version != other.version
