"""Which processors a run has: plain functions, any object with a hook, lists by request, bad lists, names."""

from __future__ import annotations

from typing import Any

import pytest

from threadmark import ConfigurationError, Message
from threadmark.agents import Agent, RequestContext
from threadmark.processors import Processor
from threadmark.processors.base import kebab
from threadmark.testing import ScriptedModel

pytestmark = pytest.mark.anyio


async def test_plain_functions() -> None:
    """A function is a hook: with one argument, or with the context as a second; plain or async."""
    seen: list[Any] = []

    def shout(messages: list[Message]) -> list[Message]:
        return [message.replace(text=message.text + "!") for message in messages]

    async def note(message: Message, ctx: Any) -> None:
        seen.append((ctx.agent, message.text))

    class Callable_:
        async def __call__(self, message: Message, limit: int = 3) -> None:
            seen.append(limit)

    model = ScriptedModel(["x"])
    agent = Agent("a", model=model, input_processors=[shout], output_processors=[note, Callable_()])
    await agent.generate("q")
    assert model.requests[0].messages[0].text == "q!"
    assert seen == [("a", "x"), 3]


async def test_any_object_with_a_hook() -> None:
    """It need not be a subclass of `Processor`."""

    class Duck:
        def process_input(self, messages: Any, ctx: Any) -> Any:
            ctx.abort("no")

    result = await Agent("a", model=ScriptedModel([]), input_processors=[Duck()]).generate("q")
    assert result.tripwire is not None
    assert result.tripwire.processor == "duck"


async def test_lists_by_request_and_per_call() -> None:
    """A list may be a function of the request context; a list of the call takes the place of the agent's."""

    def tagger(tag: str) -> Any:
        return lambda messages: [message.replace(text=message.text + tag) for message in messages]

    async def choose(context: RequestContext) -> list[Any]:
        return [tagger(context["tier"])]

    model = ScriptedModel(lambda request: request.messages[0].text)
    agent = Agent("a", model=model, input_processors=choose)
    context = RequestContext(tier="-pro")
    assert (await agent.generate("q", request_context=context)).text == "q-pro"
    own = await agent.generate("q", request_context=context, input_processors=[tagger("-own")])
    assert own.text == "q-own"
    assert (await agent.generate("q", request_context=context, input_processors=[])).text == "q"
    by_call = await agent.generate("q", request_context=context, input_processors=lambda c: [tagger("-c")])
    assert by_call.text == "q-c"


class OnlyInput(Processor):
    def process_input(self, messages: Any, ctx: Any) -> None: ...


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("input", OnlyInput(), "must be a sequence of processors, not OnlyInput"),
        ("input", "x", "not str"),
        ("input", [OnlyInput], "write OnlyInput()"),
        ("output", [OnlyInput()], "does nothing in output_processors: it has only process_input"),
        ("error", [OnlyInput()], "does nothing in error_processors"),
        ("input", [Processor()], "it has no hook"),
        ("input", [5], "it has no hook"),
        ("input", [lambda: None], "takes no argument"),
    ],
)
def test_bad_lists(kind: str, value: Any, message: str) -> None:
    """A list that cannot work is refused when it is given: a guard that does nothing is worse than none."""
    import re

    with pytest.raises(ConfigurationError, match=re.escape(message)):
        Agent("a", **{f"{kind}_processors": value})
    agent = Agent("a", model=ScriptedModel(["x"]))
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        agent.stream("q", **{f"{kind}_processors": value})


async def test_bad_list_of_a_function() -> None:
    """A function that gives no list is refused when it is called."""
    number: Any = 5
    agent = Agent("a", model=ScriptedModel(["x"]), input_processors=lambda context: number)
    with pytest.raises(ConfigurationError, match="not int"):
        await agent.generate("q")


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("PIIRedactor", "pii-redactor"),
        ("TokenLimiter", "token-limiter"),
        ("my_check", "my-check"),
        ("X", "x"),
    ],
)
def test_names(name: str, made: str) -> None:
    """A processor is named after its class unless it says otherwise."""
    assert kebab(name) == made
