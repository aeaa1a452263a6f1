"""Every option, given through `Memory(...)`, changes what happens in a conversation with an agent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from itertools import count
from typing import Any

import pytest

from threadmark import (
    Agent,
    FilePart,
    Memory,
    MemoryEvent,
    Message,
    ModelError,
    ObservationalMemory,
    TextPart,
)
from threadmark.memory.observe._types import ObserverBatch, ObserverResult, ObservingError
from threadmark.memory.observe.extract import Extractor
from threadmark.memory.observe.settings import (
    ContinuationHints,
    ObservationSettings,
    ReflectionSettings,
)
from threadmark.models.base import ModelRequest
from threadmark.testing import ScriptedModel

from .build import NOON
from .test_sources import note_each

pytestmark = pytest.mark.anyio

TEXT = "I went to the market and bought some more of everything that they had there, for the whole week. "
_calls = count(1)
SMALL: dict[str, Any] = {"message_tokens": 200, "buffer_tokens": 40, "max_tokens_per_batch": 200}


def observer(request: ModelRequest) -> str:
    """A line for each message, with all that can be asked for beside."""
    if "You condense" in request.instructions:
        return note_each(request)
    noted = note_each(request).replace("number", f"in call {next(_calls)}, as")
    return noted + "\nTASK: shop\nNEXT: ask\nTITLE: The market\nVALUE mood: glad"


@dataclass
class Scene:
    """A conversation of `turns` turns, and what became of it."""

    observation: dict[str, Any] = field(default_factory=dict)
    reflection: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    turns: int = 5
    text: str | Message = TEXT
    pause: timedelta = timedelta(minutes=1)
    actors: tuple[str, ...] = ("one:model",)
    reply: Callable[[ModelRequest], Any] = observer
    before: int = 0
    working: Any = False
    memory: Memory = field(init=False)
    prompts: list[str] = field(default_factory=list)
    tools: list[str] = field(default_factory=list)
    asked: list[ModelRequest] = field(default_factory=list)
    events: list[MemoryEvent] = field(default_factory=list)
    dropped: int = 0
    refusals: int = 0
    refused: int = 0
    error: Exception | None = None
    spent: float = 0.0
    status: Any = None
    uncited: list[str] = field(default_factory=list)
    """User messages that no row names, nor one that says that there is nothing to note."""
    title: str = ""
    remembered: str = ""

    async def play(self) -> Scene:
        """Live through it."""
        now = NOON

        def clock() -> datetime:
            return now

        async def role(request: ModelRequest) -> Any:
            self.asked.append(request)
            made = self.reply(request)
            return await made if isinstance(made, Awaitable) else made

        def act(request: ModelRequest) -> Any:
            self.prompts.append("\n".join(message.text for message in request.messages))
            self.tools = [tool.name for tool in request.tools]
            if self.refused < self.refusals:
                self.refused += 1
                return ModelError("maximum context length exceeded", status=400)
            return "I see, that is a lot of things to have bought for a week. " * 2

        given = {"model": ScriptedModel(role), "deadline": 30.0, **self.options}
        observation = {**SMALL, **self.observation}
        if observation.get("model") is not None or self.reflection.get("model") is not None:
            given.pop("model")
        settings = ObservationalMemory(
            observation=ObservationSettings(**observation),
            reflection=ReflectionSettings(**{"observation_tokens": 400, **self.reflection}),
            **given,
        )
        async with Memory(
            "sqlite://",
            observational_memory=settings,
            working_memory=self.working,
            clock=clock,
            on_event=self.events.append,
        ) as memory:
            thread = memory.resource("ana").thread("t")
            if self.before:
                await thread.save([Message.user(TEXT, created_at=now) for _ in range(self.before)])
            began = asyncio.get_running_loop().time()
            for number in range(self.turns):
                now += self.pause
                name = self.actors[number % len(self.actors)]
                agent = Agent("helper", model=ScriptedModel(act, name=name), memory=memory)
                try:
                    result = await agent.generate([self.said(number)], resource="ana", thread="t")
                except Exception as error:
                    self.error = error
                    break
                self.dropped = len(result.context.dropped)
                self.spent = asyncio.get_running_loop().time() - began
                await memory.settled()
            self.status = await thread.observations.status()
            rows = (await thread.observations.list(view="all", per_page=None)).observations
            cited = {source.message_id for row in rows for source in row.sources}
            stored = (await thread.messages(per_page=None)).messages
            self.uncited = [item.text for item in stored if item.role == "user" and item.id not in cited]
            if self.working:
                version = await memory.resource("ana").working_memory.version()
                self.remembered = "" if version is None else version.content
            found = await thread.get()
            self.title = "" if found is None else found.title
        return self

    def said(self, number: int) -> str | Message:
        """The message of a turn; "{}" in a text is its number."""
        return self.text.format(number) if isinstance(self.text, str) else self.text

    @property
    def observed(self) -> list[ModelRequest]:
        return [request for request in self.asked if "You condense" not in request.instructions]

    @property
    def reflected(self) -> list[ModelRequest]:
        return [request for request in self.asked if "You condense" in request.instructions]

    @property
    def noted(self) -> bool:
        """Whether notes were ever in the agent's prompt."""
        return any("<observations>" in prompt for prompt in self.prompts)

    def first(self) -> int:
        """The first turn with notes in its prompt; a large number for none."""
        return next((n for n, prompt in enumerate(self.prompts) if "<observations>" in prompt), 99)


async def slow(request: ModelRequest) -> str:
    await asyncio.sleep(0.4)
    return observer(request)


def failing(request: ModelRequest) -> str:
    raise ModelError("slow down", status=429)


CHECKS: dict[str, Callable[[], Awaitable[bool]]] = {}


def option(name: str) -> Callable[[Callable[[], Awaitable[bool]]], Callable[[], Awaitable[bool]]]:
    def add(check: Callable[[], Awaitable[bool]]) -> Callable[[], Awaitable[bool]]:
        CHECKS[name] = check
        return check

    return add


@option("observation.message_tokens")
async def _() -> bool:
    low, high = await Scene().play(), await Scene(observation={"message_tokens": 5_000}).play()
    return low.noted and not high.noted


@option("observation.buffer_tokens")
async def _() -> bool:
    early = await Scene(turns=1).play()
    never = await Scene(turns=1, observation={"buffer_tokens": False}).play()
    return len(early.observed) > 0 and not never.observed


@option("observation.buffer_activation")
async def _() -> bool:
    little = await Scene(turns=8, observation={"buffer_activation": 1.0}).play()
    much = await Scene(turns=8, observation={"buffer_activation": 0.2}).play()
    return little.prompts[-1].count(TEXT) < much.prompts[-1].count(TEXT)


@option("observation.block_after")
async def _() -> bool:
    there = await Scene(turns=1, before=9, observation={"block_after": 1.0}, reply=slow).play()
    not_yet = await Scene(turns=1, before=9, observation={"block_after": 50.0}, reply=slow).play()
    return there.noted and not not_yet.noted


@option("observation.buffer_on_idle")
async def _() -> bool:
    large = {"message_tokens": 5_000, "buffer_tokens": 4_000}
    without = await Scene(turns=1, observation=large).play()
    with_it = await Scene(turns=1, observation={**large, "buffer_on_idle": True}).play()
    return not without.observed and len(with_it.observed) == 1


@option("observation.activate_after_idle")
async def _() -> bool:
    cold = {"message_tokens": 900}
    hour = timedelta(hours=1)
    without = await Scene(pause=hour, observation=cold).play()
    with_it = await Scene(pause=hour, observation={**cold, "activate_after_idle": "5m"}).play()
    return with_it.first() < without.first()


@option("activate_after_idle")
async def _() -> bool:
    cold = {"message_tokens": 900}
    with_it = await Scene(
        pause=timedelta(hours=1), observation=cold, options={"activate_after_idle": "auto"}
    ).play()
    without = await Scene(pause=timedelta(hours=1), observation=cold).play()
    return with_it.first() < without.first()


@option("observation.activate_on_provider_change")
async def _() -> bool:
    actors = ("one:model", "one:model", "two:model")
    without = await Scene(actors=actors, observation={"message_tokens": 900}).play()
    with_it = await Scene(
        actors=actors, observation={"message_tokens": 900, "activate_on_provider_change": True}
    ).play()
    return with_it.first() < without.first()


@option("activate_on_provider_change")
async def _() -> bool:
    actors = ("one:model", "two:model")
    large = {"message_tokens": 900}
    with_it = await Scene(
        actors=actors, observation=large, options={"activate_on_provider_change": True}
    ).play()
    without = await Scene(actors=actors, observation=large).play()
    return with_it.first() < without.first()


@option("observation.model")
async def _() -> bool:
    mine = ScriptedModel(observer)
    await Scene(observation={"model": mine}).play()
    return len(mine.requests) > 0


@option("reflection.model")
async def _() -> bool:
    mine, other = ScriptedModel(observer), ScriptedModel(observer)
    await Scene(turns=12, observation={"model": other}, reflection={"model": mine}).play()
    return len(mine.requests) > 0 and all("You condense" in item.instructions for item in mine.requests)


@option("model")
async def _() -> bool:
    mine = ScriptedModel(observer)
    await Scene(options={"model": mine}).play()
    return len(mine.requests) > 0


@option("observation.model_settings")
async def _() -> bool:
    scene = await Scene(observation={"model_settings": {"temperature": 0.9}}).play()
    return all(request.settings == {"temperature": 0.9} for request in scene.observed)


@option("reflection.model_settings")
async def _() -> bool:
    scene = await Scene(turns=12, reflection={"model_settings": {"temperature": 0.8}}).play()
    return {str(item.settings) for item in scene.reflected} == {"{'temperature': 0.8}"}


@option("observation.max_tokens_per_batch")
async def _() -> bool:
    small, large = await _batches(200), await _batches(5_000)
    return len(small.observed) > len(large.observed) == 1


async def _batches(limit: int) -> Scene:
    settings = {"max_tokens_per_batch": limit, "buffer_tokens": False, "block_after": 1.0}
    return await Scene(turns=1, before=12, observation=settings).play()


@option("observation.previous_observer_tokens")
async def _() -> bool:
    scene = await Scene(observation={"previous_observer_tokens": False}).play()
    known = await Scene().play()
    return not any("<known>" in item.messages[0].text for item in scene.observed) and any(
        "<known>" in item.messages[0].text for item in known.observed
    )


@option("observation.instruction")
async def _() -> bool:
    scene = await Scene(observation={"instruction": "Be terse."}).play()
    return all("Be terse." in item.instructions for item in scene.observed)


@option("reflection.instruction")
async def _() -> bool:
    scene = await Scene(turns=12, reflection={"instruction": "Be terse."}).play()
    return len(scene.reflected) > 0 and all("Be terse." in item.instructions for item in scene.reflected)


@option("observation.continuation_hints")
async def _() -> bool:
    both = await Scene().play()
    none = await Scene(observation={"continuation_hints": False}).play()
    one = await Scene(observation={"continuation_hints": ContinuationHints(current_task=False)}).play()
    return [
        (scene.status.hints.current_task, scene.status.hints.suggested_response)
        for scene in (both, none, one)
    ] == [("shop", "ask"), ("", ""), ("", "ask")]


@option("observation.thread_title")
async def _() -> bool:
    without, with_it = await Scene().play(), await Scene(observation={"thread_title": True}).play()
    return (without.title, with_it.title) == ("", "The market")


@option("observation.extract")
async def _() -> bool:
    scene = await Scene(observation={"extract": [Extractor(name="Mood", instructions="A word.")]}).play()
    return dict(scene.status.extracted) == {"mood": "glad"}


@option("observation.observe_attachments")
async def _() -> bool:
    text = Message(role="user", parts=[TextPart(TEXT), FilePart(media_type="image/png", data=b"x")])
    shown = await Scene(turns=2, text=text).play()
    hidden = await Scene(turns=2, text=text, observation={"observe_attachments": False}).play()
    return len(shown.observed[0].messages[0].parts) > 1 == len(hidden.observed[0].messages[0].parts)


@option("observation.observe_on_context_overflow")
async def _() -> bool:
    large = {"message_tokens": 5_000}
    with_it = await Scene(turns=3, before=9, refusals=1, observation=large).play()
    without = await Scene(
        turns=3, before=9, refusals=1, observation={**large, "observe_on_context_overflow": False}
    ).play()
    return with_it.error is None and isinstance(without.error, ModelError)


@option("reflection.observation_tokens")
async def _() -> bool:
    low, high = (
        await Scene(turns=12).play(),
        await Scene(turns=12, reflection={"observation_tokens": 9_000}).play(),
    )
    return len(low.reflected) > 0 and not high.reflected


@option("reflection.buffer_activation")
async def _() -> bool:
    early = await Scene(turns=12, reflection={"buffer_activation": 0.2}).play()
    late = await Scene(turns=12, reflection={"buffer_activation": 1.0}).play()
    return len(early.reflected) > len(late.reflected)


@option("reflection.block_after")
async def _() -> bool:
    def refusing(request: ModelRequest) -> str:
        return "" if "You condense" in request.instructions else observer(request)

    low, high = (await _demoted(refusing, 1.0), await _demoted(refusing, 50.0))
    return low < high


async def _demoted(reply: Callable[[ModelRequest], str], after: float) -> int:
    scene = await Scene(turns=25, reply=reply, reflection={"block_after": after}).play()
    return int(scene.status.tokens.view)


@option("scope")
async def _() -> bool:
    def high(request: ModelRequest) -> str:
        return observer(request).replace("(low", "(high")

    shown = []
    for scope in ("thread", "resource"):
        settings = ObservationalMemory(
            model=ScriptedModel(high),
            scope=scope,
            observation=ObservationSettings(**{**SMALL, "buffer_activation": 1.0}),
            deadline=30,
        )
        prompts: list[str] = []

        def act(request: ModelRequest, prompts: list[str] = prompts) -> str:
            prompts.append("\n".join(message.text for message in request.messages))
            return "I see."

        async with Memory("sqlite://", observational_memory=settings) as memory:
            agent = Agent("helper", model=ScriptedModel(act), memory=memory)
            for _ in range(8):
                await agent.generate(TEXT, resource="ana", thread="one")
                await memory.settled()
            await agent.generate("Hello.", resource="ana", thread="two")
        shown.append("<profile>" in prompts[-1])
    return shown == [False, True]


@option("share_token_budget")
async def _() -> bool:
    plain = {"buffer_tokens": False}
    own = await Scene(turns=6, observation=plain).play()
    shared = await Scene(turns=6, observation=plain, options={"share_token_budget": True}).play()
    return own.first() < shared.first()


@option("temporal_markers")
async def _() -> bool:
    hour = timedelta(hours=1)
    without = await Scene(turns=2, pause=hour).play()
    with_it = await Scene(turns=2, pause=hour, options={"temporal_markers": True}).play()
    return "later:" not in without.prompts[-1] and "1 hour later:" in with_it.prompts[-1]


@option("retrieval")
async def _() -> bool:
    without, with_it = await Scene().play(), await Scene(options={"retrieval": True}).play()
    return (without.tools, with_it.tools) == ([], ["recall_source"])


@option("observation.manage_working_memory")
async def _() -> bool:
    def keeps(request: ModelRequest) -> str:
        return observer(request) + '\nVALUE working-memory: "- Shops at the market\\n"'

    on = await Scene(observation={"manage_working_memory": True}, working=True, reply=keeps).play()
    off = await Scene(working=True, reply=keeps).play()
    return on.remembered == "- Shops at the market\n" and not off.remembered


@option("reflection.extract")
async def _() -> bool:
    topics = Extractor(name="Topics", instructions="What it is about.")

    def keeps(request: ModelRequest) -> str:
        if "You condense" not in request.instructions:
            return observer(request)
        words = request.messages[0].text.split()
        ids = [word.strip(":") for word in words if word.startswith("o") and word[1:2].isdigit()]
        return f"- (low fact) Something was said. [{', '.join(ids[:20])}]\nVALUE topics: shops"

    on = await Scene(turns=12, reflection={"extract": [topics]}, reply=keeps).play()
    off = await Scene(turns=12, reply=keeps).play()
    return on.status.extracted == {"topics": "shops"} and not off.status.extracted


@option("hooks")
async def _() -> bool:
    seen: list[str] = []
    await Scene(options={"hooks": {"on_observation_end": lambda context: seen.append(context.job_id)}}).play()
    return len(seen) > 0


@option("timezone")
async def _() -> bool:
    utc, tokyo = await Scene().play(), await Scene(options={"timezone": "Asia/Tokyo"}).play()
    return "12:01 low" in utc.prompts[-1] and "21:01 low" in tokyo.prompts[-1]


@option("redact")
async def _() -> bool:
    scene = await Scene(options={"redact": lambda text: text.replace("market", "[place]")}).play()
    return len(scene.observed) > 0 and not any("market" in item.messages[0].text for item in scene.observed)


@option("observer")
async def _() -> bool:
    class Mine:
        version = "1"
        batches = 0

        async def observe(self, batch: ObserverBatch) -> ObserverResult:
            self.batches += 1
            return ObserverResult(rows=(), nothing=tuple(message.id for message in batch.messages))

    mine = Mine()
    scene = await Scene(options={"observer": mine}).play()
    return mine.batches > 0 and not scene.observed


@option("reflector")
async def _() -> bool:
    class Mine:
        version = "1"
        batches = 0

        async def reflect(self, batch: Any) -> Any:
            self.batches += 1
            raise ObservingError("nothing", reason="empty")

    mine = Mine()
    scene = await Scene(turns=12, options={"reflector": mine}).play()
    return mine.batches > 0 and not scene.reflected


@option("on_failure")
async def _() -> bool:
    blocking = {"buffer_tokens": False, "block_after": 1.0}
    raised = await Scene(
        turns=1, before=9, observation=blocking, reply=failing, options={"on_failure": "raise"}
    ).play()
    warned = await Scene(turns=1, before=9, observation=blocking, reply=failing).play()
    return isinstance(raised.error, ObservingError) and warned.error is None


@option("deadline")
async def _() -> bool:
    blocking = {"buffer_tokens": False, "block_after": 1.0}
    short = await Scene(
        turns=1, before=9, observation=blocking, reply=slow, options={"deadline": 0.05}
    ).play()
    long = await Scene(turns=1, before=9, observation=blocking, reply=slow).play()
    return not short.noted and long.noted


@option("job_deadline")
async def _() -> bool:
    scene = await Scene(turns=1, reply=slow, options={"job_deadline": 0.05}).play()
    return [event.data["reason"] for event in scene.events if event.name.endswith("-failed")] == ["timeout"]


@option("max_failures")
async def _() -> bool:
    low = await Scene(turns=6, reply=failing, options={"max_failures": 1, "rest": 36_000.0}).play()
    high = await Scene(turns=6, reply=failing, options={"max_failures": 9, "rest": 36_000.0}).play()
    return low.dropped > 0 and high.dropped == 0


@option("rest")
async def _() -> bool:
    short = await Scene(turns=8, reply=failing, options={"max_failures": 1, "rest": 0.0}).play()
    long = await Scene(turns=8, reply=failing, options={"max_failures": 1, "rest": 36_000.0}).play()
    return len(short.observed) > len(long.observed)


@pytest.mark.parametrize("name", CHECKS)
async def test_it_changes_what_happens(name: str) -> None:
    """With the option, what is seen from outside differs as it should."""
    assert await CHECKS[name]()


def test_every_option_has_a_check() -> None:
    """A new option needs one."""
    there = {item.name for item in fields(ObservationalMemory)} - {"observation", "reflection"}
    there |= {f"observation.{item.name}" for item in fields(ObservationSettings)}
    there |= {f"reflection.{item.name}" for item in fields(ReflectionSettings)}
    # These two decide when summaries come into view, as the observer's decide it for notes.
    unseen = {"reflection.activate_after_idle", "reflection.activate_on_provider_change"}
    assert set(CHECKS) | unseen == there
