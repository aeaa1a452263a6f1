"""How a turn's prompt is counted, and what the provider's own figures teach."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from threadmark import Agent, Memory, Message, TextPart, Usage
from threadmark.memory import tokens_counter
from threadmark.memory.counting import Counters, TurnCounts
from threadmark.memory.tokens import estimate_tokens, message_tokens
from threadmark.models.base import Model, ModelEvent, ModelRequest, ModelResponse

pytestmark = pytest.mark.anyio

QUESTION = "What did we say about the budget for the next year, and who is going to present it? " * 6


class Charging(Model):
    """Reports `rate` times as many input tokens as the estimate of what it was sent."""

    def __init__(self, rate: float = 1.0, name: str = "openai:gpt-5.4", reported: int | None = None) -> None:
        self.rate = rate
        self._name = name
        self.reported = reported

    @property
    def name(self) -> str:
        return self._name

    async def request(self, request: ModelRequest) -> ModelResponse:
        sent = estimate_tokens(request.instructions) + sum(map(message_tokens, request.messages))
        tokens = int(sent * self.rate) if self.reported is None else self.reported
        usage = Usage(input_tokens=tokens, output_tokens=5, requests=1)
        return ModelResponse(parts=(TextPart("Nobody said anything about that yet. " * 5),), usage=usage)

    def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        raise NotImplementedError


async def scales(agent: Agent, turns: int, **options: Any) -> list[float]:
    """The correction in each of some turns."""
    options = {"resource": "ana", "thread": "t", **options}
    return [(await agent.generate(QUESTION, **options)).context.scale for _ in range(turns)]


async def test_counts_follow_the_provider(memory: Memory) -> None:
    """The first report moves the next count half way, the second all the way; the report says so."""
    agent = Agent("a", model=Charging(1.5), memory=memory)
    assert await scales(agent, 4) == pytest.approx([1, 1.25, 1.5, 1.5], abs=0.02)
    report = (await agent.generate(QUESTION, resource="ana", thread="t")).context
    assert report.counter == "o200k estimate 2"
    history = next(block for block in report.blocks if block.kind == "history")
    page = await memory.resource("ana").thread("t").messages(per_page=8)
    assert len(history.sources) == 8
    assert history.tokens == pytest.approx(1.5 * sum(map(message_tokens, page.messages)), rel=0.02)


async def test_a_budget_is_in_the_providers_tokens(memory: Memory) -> None:
    """With twice as many tokens a word, half as much history fits, and the report's total stays below."""
    shown = {}
    for rate in (1.0, 2.0):
        agent = Agent("a", model=Charging(rate, f"openai:gpt-{rate}"), memory=memory)
        for _ in range(40):
            options: dict[str, Any] = {"resource": f"r{rate}", "thread": "t", "max_context_tokens": 1500}
            report = (await agent.generate(QUESTION, **options)).context
            assert report.tokens <= 1500
        shown[rate] = sum(len(block.sources) for block in report.blocks if block.kind == "history")
    assert shown[2.0] < 0.75 * shown[1.0]


async def test_what_was_learned_outlives_the_process(tmp_path: Path) -> None:
    """It is kept with the thread; another thread and another model start anew, in another process."""
    url = f"sqlite:///{tmp_path}/m.db"
    async with Memory(url) as memory:
        await scales(Agent("a", model=Charging(1.5), memory=memory), 3)
    async with Memory(url) as memory:
        agent = Agent("a", model=Charging(1.5), memory=memory)
        assert await scales(agent, 1, thread="other") == [1.0]
        assert await scales(agent, 1) == pytest.approx([1.5], abs=0.02)
        assert await scales(agent, 1, model=Charging(1, "openai:gpt-9")) == [1.0]
        assert await scales(agent, 1) == pytest.approx([1.5], abs=0.02), "and is not lost meanwhile"


async def test_a_new_thread_starts_with_what_is_known_of_the_model(memory: Memory) -> None:
    """And one thread of many odd reports hardly counts for the others."""
    agent = Agent("a", model=Charging(1.4), memory=memory)
    for thread in ("t1", "t2", "t3"):
        await scales(agent, 2, thread=thread)
    assert await scales(agent, 1, thread="new") == pytest.approx([1.4], abs=0.02)
    await scales(agent, 30, thread="odd", model=Charging(4.0))
    assert await scales(agent, 1, thread="newer") == pytest.approx([1.4], abs=0.02)


@pytest.mark.parametrize("reported", [0, 90, 10**6])
async def test_what_cannot_be_teaches_nothing(memory: Memory, reported: int) -> None:
    """No figures, or figures of something else, leave counts as they are."""
    agent = Agent("a", model=Charging(reported=reported), memory=memory)
    assert set(await scales(agent, 4)) == {1.0}


async def test_cached_input_is_input(memory: Memory) -> None:
    """Also where a provider reports it beside the input rather than as part of it."""
    model = Charging()
    counts = TurnCounts(Counters(), "")
    counts.use(model.name, exact=False)
    counts.shown(300, 0)
    counts.learn(Usage(input_tokens=20, cache_read_tokens=300, cache_write_tokens=100))
    assert counts.use(model.name, exact=False).scale == pytest.approx((1 + 420 / 300) / 2)
    counts.learn(Usage(input_tokens=420, cache_read_tokens=300, cache_write_tokens=100))
    assert counts.use(model.name, exact=False).scale == pytest.approx(420 / 300)


async def test_a_prompt_that_processors_changed_teaches_nothing(memory: Memory) -> None:
    """What was sent is then not what was counted."""

    def shorten(messages: list[Message]) -> list[Message]:
        return messages[-1:]

    from threadmark.processors import Processor

    class Shorten(Processor):
        name = "shorten"

        async def process_input_step(self, request: ModelRequest, ctx: object) -> ModelRequest:
            from dataclasses import replace

            return replace(request, messages=shorten(list(request.messages)))

    agent = Agent("a", model=Charging(1.5), memory=memory, input_processors=[Shorten()])
    assert set(await scales(agent, 4)) == {1.0}


async def test_tools_are_counted(memory: Memory) -> None:
    """Their definitions are part of what is sent, and of the budget."""

    def look_up(word: str) -> str:
        """Find a word in the dictionary, with all of its meanings and where each of them came from."""
        return word

    agent = Agent("a", model=Charging(), memory=memory, tools=[look_up])
    blocks = (await agent.generate("hi", resource="ana", thread="t")).context.blocks
    assert [block.kind for block in blocks] == ["tools", "input"]
    assert 40 < blocks[0].tokens < 120
    assert "look_up" in blocks[0].text


@pytest.mark.parametrize(
    "stored", ["x", "[]", '{"ratios": 3}', '{"by": 1}', '{"ratios":{"m":["a"]}}', "9" * 5000]
)
async def test_a_damaged_note_is_none(tmp_path: Path, stored: str) -> None:
    """What cannot be read is as if it had not been kept: counts are uncorrected, and right."""
    async with Memory(f"sqlite:///{tmp_path}/m.db") as memory:
        agent = Agent("a", model=Charging(1.5), memory=memory)
        await scales(agent, 3)
        await memory.aclose()
        with sqlite3.connect(tmp_path / "m.db") as db:
            db.execute("UPDATE threads SET window_counted = ?", (stored,))
        db.close()
        memory.counters = Counters()
        report = (await agent.generate(QUESTION, resource="ana", thread="t")).context
        assert report.scale == 1
        page = await memory.resource("ana").thread("t").messages(per_page=8)
        tokens = next(block.tokens for block in report.blocks if block.kind == "history")
        assert tokens == sum(map(message_tokens, page.messages[:6]))


async def test_an_installed_tokenizer_counts_for_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is loaded only where a budget asks for it; what was learned of the estimate is not applied to it."""
    loaded: list[str] = []

    def exact(family: str) -> tuple[str, Any]:
        loaded.append(family)
        return "words", lambda text: len(text.split())

    monkeypatch.setattr(tokens_counter, "exact_counter", exact)
    async with Memory("sqlite://") as memory:
        agent = Agent("a", model=Charging(1.5), memory=memory)
        await scales(agent, 3)
        assert loaded == []
        options: dict[str, Any] = {"resource": "ana", "thread": "t", "max_context_tokens": 10_000}
        report = (await agent.generate(QUESTION, **options)).context
        assert (report.counter, loaded) == ("o200k words", ["o200k"])
        assert report.blocks[-1].tokens == 4 + len(QUESTION.split())
        await agent.generate(QUESTION, **options)
        assert loaded == ["o200k"]
        assert (
            await agent.generate(QUESTION, resource="ana", thread="t")
        ).context.counter == "o200k estimate 2"
