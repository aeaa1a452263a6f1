"""One conversation with Threadmark's own agent and with a Pydantic AI agent: what each saw and stored."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic_ai import Agent as ProviderAgent
from pydantic_ai import messages as pai
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

from threadmark import Agent, Memory, Message
from threadmark.adapters.pydantic_ai import MemoryCapability

INSTRUCTIONS = "Be brief."

Reply = str | dict[str, Any] | Exception | pai.ModelResponse
Script = Sequence[Reply] | Callable[[list[pai.ModelMessage]], Reply]


@dataclass
class Played:
    """A model of Pydantic AI that follows a script, and what it was sent."""

    script: Script
    prompts: list[list[Any]] = field(default_factory=list)
    tools: list[list[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._left = None if callable(self.script) else iter(self.script)
        self._ids = itertools.count(1)
        self.model = FunctionModel(self._answer, stream_function=self._stream, model_name="played")

    def _next(self, messages: list[pai.ModelMessage], info: AgentInfo) -> Reply:
        self.prompts.append(plain(messages))
        self.tools.append(sorted(tool.name for tool in info.function_tools))
        if callable(self.script):
            return self.script(messages)
        assert self._left is not None
        return next(self._left)

    def _answer(self, messages: list[pai.ModelMessage], info: AgentInfo) -> pai.ModelResponse:
        reply = self._next(messages, info)
        if isinstance(reply, Exception):
            raise reply
        if isinstance(reply, pai.ModelResponse):
            return reply
        if isinstance(reply, str):
            return pai.ModelResponse([pai.TextPart(reply)])
        calls = [
            pai.ToolCallPart(name, args, tool_call_id=f"c{next(self._ids)}") for name, args in reply.items()
        ]
        return pai.ModelResponse(calls)

    async def _stream(
        self, messages: list[pai.ModelMessage], info: AgentInfo
    ) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
        reply = self._next(messages, info)
        if isinstance(reply, Exception):
            raise reply
        if isinstance(reply, str):
            for word in reply.split(" "):
                yield f"{word} "
        elif isinstance(reply, dict):
            for index, (name, args) in enumerate(reply.items()):
                yield {
                    index: DeltaToolCall(
                        name=name, json_args=json.dumps(args), tool_call_id=f"c{next(self._ids)}"
                    )
                }


def plain(messages: Sequence[pai.ModelMessage]) -> list[Any]:
    """What a model is told, part by part: requests that follow each other count as one."""
    told: list[Any] = []
    for message in messages:
        for part in message.parts:
            if isinstance(part, pai.UserPromptPart):
                told.append(("user", _content(part.content)))
            elif isinstance(part, pai.SystemPromptPart):
                told.append(("system", part.content))
            elif part.part_kind in ("tool-return", "retry-prompt"):
                told.append(("outcome", part.tool_name, part.tool_call_id, part.content))
            elif isinstance(part, pai.TextPart):
                told.append(("answer", part.content))
            elif isinstance(part, pai.ToolCallPart):
                told.append(("call", part.tool_name, part.tool_call_id, part.args_as_dict()))
            else:
                told.append(part)
    last = next((m for m in reversed(messages) if isinstance(m, pai.ModelRequest)), None)
    told.append(("instructions", None if last is None else last.instructions))
    return told


def _content(content: Any) -> Any:
    if isinstance(content, str):
        return [content]
    return [
        item if isinstance(item, str) else (item.kind, getattr(item, "media_type", "")) for item in content
    ]


async def stored(memory: Memory, thread: str = "t", resource: str = "ana") -> list[Any]:
    """The messages of a thread, without what no two runs share."""
    page = await memory.resource(resource).thread(thread).messages(per_page=None)
    return [
        (message.role, message.speaker, [_part(part) for part in message.parts]) for message in page.messages
    ]


def _part(part: Any) -> Any:
    values = {name: getattr(part, name) for name in part.__dataclass_fields__}
    provider = dict(values.get("provider") or {})
    provider.pop("timestamp", None)
    if "provider" in values:
        values["provider"] = provider
    return (type(part).__name__, values)


@dataclass
class Twins:
    """Two agents on two memories that were made alike."""

    ours: Memory
    theirs: Memory
    tools: Sequence[Callable[..., Any]] = ()

    async def say(
        self, prompt: Any, script: Script, thread: str = "t", **options: Any
    ) -> tuple[Played, Played]:
        """Ask both; the prompts that each model saw."""
        speaker = options.get("speaker")
        mine, other = Played(script), Played(script)
        own = Agent(
            "twin", model=mine.model, memory=self.ours, instructions=INSTRUCTIONS, tools=list(self.tools)
        )
        agent = ProviderAgent(
            other.model,
            name="twin",
            instructions=INSTRUCTIONS,
            tools=list(self.tools),
            capabilities=[MemoryCapability(self.theirs, resource="ana", thread=thread, speaker=speaker)],
        )
        given = ours_of(prompt)
        for call in (
            lambda: own.generate(given, resource="ana", thread=thread, **options),
            lambda: agent.run(prompt),
        ):
            try:
                await call()
            except Exception as error:
                if isinstance(error, AssertionError):
                    raise
        await self.ours.settled()
        await self.theirs.settled()
        return mine, other


def ours_of(prompt: Any) -> Any:
    """A prompt of Pydantic AI as ours."""
    if isinstance(prompt, str):
        return prompt
    from threadmark.adapters._messages import prompt_message

    return prompt_message(prompt, None)


async def messages(memory: Memory, thread: str = "t") -> list[Message]:
    page = await memory.resource("ana").thread(thread).messages(per_page=None)
    return list(page.messages)


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


async def runs(memory: Memory) -> list[Any]:
    """Status, reason and tokens of the runs of thread "t"."""
    page = await memory.store.list_runs("ana", thread_id="t")
    return sorted([(run.status, run.finish_reason, run.usage) for run in page.runs], key=str)


def agent(memory: Memory, played: Played, **options: Any) -> ProviderAgent[Any, Any]:
    where = {"resource": "ana", "thread": "t", **options.pop("where", {})}
    return ProviderAgent(
        played.model, name="twin", capabilities=[MemoryCapability(memory, **where)], **options
    )
