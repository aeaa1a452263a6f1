"""What an agent and a call may be made of, and what is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from threadmark import (
    ConfigurationError,
    Memory,
    Message,
    TextPart,
    Usage,
    ValidationError,
)
from threadmark.agents import Agent, RequestContext
from threadmark.models.base import ModelRequest, ModelResponse
from threadmark.testing import ScriptedModel

pytestmark = pytest.mark.anyio


def echo(request: ModelRequest) -> str:
    return f"echo {request.messages[-1].text}"


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@pytest.mark.parametrize(
    "prompt",
    ["", [], [""], b"bytes", 7, {"content": 3}, {"role": "user"}, {"text": "a", "shout": True},
     {"parts": [{"type": "hologram"}]}, {"parts": [{"type": "file", "media_type": "a/b", "data": "a"}]},
     {"text": "a", "speaker": {"id": ""}}, {"text": "a", "speaker": {"id": "x", "rank": 1}},
     {"text": "a", "metadata": {"at": object()}}, {"text": "a", "id": ""}, {"text": "a", "role": "tool"},
     [Message.system("only system")]],
)  # fmt: skip
async def test_a_bad_prompt_is_refused(prompt: object) -> None:
    """What cannot be a prompt is refused before the model is called."""
    model = ScriptedModel(echo)
    with pytest.raises(ValidationError):
        await Agent("a", model=model).generate(prompt)  # type: ignore[arg-type]
    assert model.requests == []


async def test_settings_and_usage() -> None:
    """A call's settings go over the agent's; a model that does not count its requests is counted."""
    response = ModelResponse(parts=(TextPart("hi"),), usage=Usage(input_tokens=3, output_tokens=1))
    model = ScriptedModel([response])
    agent = Agent("a", model=model, settings={"temperature": 0.2, "top_p": 1})
    result = await agent.generate("hi", settings={"temperature": 0.9})
    assert model.requests[0].settings == {"temperature": 0.9, "top_p": 1}
    assert result.usage == Usage(input_tokens=3, output_tokens=1, requests=1)


async def test_models_of_pydantic_ai(memory: Memory) -> None:
    """A model object of Pydantic AI works as it is: tools, streams, and the next turn's prompt."""
    from pydantic_ai import messages as pai
    from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

    prompts: list[list[str]] = []

    def answer(messages: list[pai.ModelMessage], info: AgentInfo) -> pai.ModelResponse:
        prompts.append([part.part_kind for message in messages for part in message.parts])
        if prompts[-1][-1] == "user-prompt" and len(prompts) == 1:
            return pai.ModelResponse([pai.ToolCallPart("add", {"a": 1, "b": 2}, "c")])
        return pai.ModelResponse([pai.TextPart("Three.")])

    async def stream(messages: list[pai.ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        last = messages[-1].parts[-1].part_kind
        if last == "user-prompt":
            yield {0: DeltaToolCall("add", '{"a": 2, "b": 2}', tool_call_id="d")}
        else:
            yield "Four"
            yield "."

    model = FunctionModel(answer, stream_function=stream)
    agent = Agent("a", instructions="Add.", model=model, memory=memory, tools=[add])
    first = await agent.generate("1 + 2?", resource="ana", thread="t")
    assert (first.text, first.tool_calls[0].output) == ("Three.", 3)
    second = await agent.generate("again", resource="ana", thread="t")
    assert second.text == "Three."
    assert prompts[2] == ["user-prompt", "tool-call", "tool-return", "text", "user-prompt"]
    third = await agent.stream("2 + 2?", resource="ana", thread="t").result()
    assert (third.text, third.tool_calls[0].output) == ("Four.", 4)


@pytest.mark.parametrize("model", [None, "", "nonsense", 7, lambda context: None])
async def test_a_model_that_is_none(model: Any) -> None:
    """No model, or what cannot be one, is a configuration error."""
    with pytest.raises(ConfigurationError):
        await Agent("a", model=model).generate("hi")


async def test_a_model_of_the_call() -> None:
    """A call's model is used instead of the agent's."""
    mine, theirs = ScriptedModel(["mine"]), ScriptedModel(["theirs"])
    agent = Agent("a", model=theirs)
    assert (await agent.generate("hi", model=mine)).text == "mine"
    assert (
        await agent.generate("hi", model=lambda context: mine if context.get("x") else theirs)
    ).text == "theirs"


@pytest.mark.parametrize(
    "options",
    [{"name": ""}, {"max_steps": 0}, {"tool_concurrency": 0}, {"settings": {"x": object()}},
     {"instructions": 3}, {"memory": 3}, {"memory": "sqlite://"}],
)  # fmt: skip
def test_a_misconfigured_agent(options: dict[str, Any]) -> None:
    """What cannot work is refused when the agent is made."""
    with pytest.raises((ConfigurationError, ValidationError)):
        Agent(**{"name": "a", **options})


async def test_dynamic_parts_of_a_wrong_kind(memory: Memory) -> None:
    """A function that gives the wrong thing is a configuration error that says which."""
    model = ScriptedModel(echo)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"instructions": lambda context: 3}, "instructions"),
        ({"tools": lambda context: 3}, "tools"),
        ({"memory": lambda context: 3}, "memory"),
        ({"memory": lambda context: None}, "memory"),
    ]
    for options, name in wrong:
        with pytest.raises(ConfigurationError, match=name):
            await Agent("a", model=model, **({"memory": memory} | options)).generate(
                "hi", resource="ana", thread="t"
            )
    assert model.requests == []


def test_the_request_context() -> None:
    """It holds names and values; a missing one is named; it shows no values, which may be secret."""
    context = RequestContext(resource="ana", tier="pro", token="s3cret")
    assert (context["tier"], context.get("tier"), context.get("none"), context.get("none", 1)) == (
        "pro",
        "pro",
        None,
        1,
    )
    assert ("tier" in context, "none" in context, list(context), len(context)) == (
        True,
        False,
        ["tier", "token"],
        2,
    )
    assert bool(RequestContext())
    assert "s3cret" not in repr(context)
    with pytest.raises(ValidationError, match="'none'"):
        context["none"]
    with pytest.raises(ValidationError, match="resource"):
        RequestContext(resource="")


async def test_system_text_is_text() -> None:
    """Anything else is refused before the model is asked."""
    model = ScriptedModel(["unused"])
    with pytest.raises(ValidationError, match="system"):
        await Agent("a", model=model).generate("go", system=5)  # type: ignore[arg-type]
    assert model.requests == []
