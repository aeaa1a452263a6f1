"""The world of a soak: two memories on one database, and agents with everything switched on."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta
from typing import Any

from threadmark import (
    Agent,
    Memory,
    ObservationalMemory,
    SemanticRecall,
    ToolContext,
    Workflow,
    WorkflowContext,
    tool,
    workflow,
)
from threadmark.memory.observe.settings import ObservationSettings, ReflectionSettings
from threadmark.processors import Processor

from .ledger import Ledger, mark_of
from .models import Models

FORBIDDEN = "a forbidden thing"


class Clock:
    """The time, which can be put forward: so runs expire and leases run out without waiting."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


class Guard(Processor):
    """Stops what is forbidden, and has one answer in twenty given again."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def process_input(self, messages: Any, ctx: Any) -> None:
        if any(FORBIDDEN in message.text for message in messages):
            ctx.abort("not here")

    def process_output_step(self, parts: Any, ctx: Any) -> None:
        if ctx.retries == 0 and self._chance.random() < 0.05:
            ctx.abort("say it better", retry=True)


class World:
    """What the lives of a soak share. `households[n]` is the mark of user n; the last two share theirs."""

    def __init__(self, url: str, seed: int, users: int) -> None:
        self.url = url
        self.seed = seed
        self.ledger = Ledger()
        self.chance = random.Random(f"{seed}/world")
        self.clock = Clock()
        self.models = Models(seed, self.ledger)
        self.users = [f"u{number}" for number in range(users)]
        self.marks = [mark_of(self.chance) for _ in self.users]
        self.marks[-1] = self.marks[-2]
        self.memories = [self._memory(number) for number in range(2)]
        self.workflows = [self._workflow(memory) for memory in self.memories]
        made = list(zip(self.memories, self.workflows, strict=True))
        self.leads = [self._lead(memory, pay, guarded=False) for memory, pay in made]
        self.guarded = [self._lead(memory, pay, guarded=True) for memory, pay in made]
        self.routers = [self._router(memory, pay) for memory, pay in made]

    def mark(self, user: str) -> str:
        return self.marks[self.users.index(user)]

    def _memory(self, number: int) -> Memory:
        return Memory(
            self.url,
            clock=self.clock,
            last_messages=20,
            working_memory=True,
            semantic_recall=SemanticRecall(scope="resource" if number else "thread"),
            generate_title=bool(number),
            observational_memory=ObservationalMemory(
                model=self.models.observer,
                scope="resource" if number else "thread",
                observation=ObservationSettings(message_tokens=1200, buffer_tokens=0.3),
                reflection=ReflectionSettings(observation_tokens=400),
                on_failure="raise" if number else "warn",
            ),
        )

    def _tools(self) -> list[Any]:
        ledger = self.ledger

        def check(context: ToolContext, order: str) -> None:
            owner = (context.resource_id or "").removesuffix("-helper")
            if owner in self.users and not order.startswith(self.mark(owner)):
                ledger.wrong.append(f"{context.resource_id} executes {order}")

        @tool(requires_approval=True)
        async def refund(context: ToolContext, order: str) -> str:
            """Pay back an order."""
            check(context, order)
            ledger.executed[order] += 1
            await asyncio.sleep(0.001)
            return f"paid back {order}"

        @tool
        def look(context: ToolContext, order: str) -> str:
            """Look an order up."""
            check(context, order)
            return f"order {order} " + "detail " * 40

        @tool(resume_schema=int)
        async def choose(context: ToolContext, order: str) -> str:
            """Have the user choose."""
            check(context, order)
            if context.resume_data is None:
                context.suspend({"question": f"which of {order}?"})
            ledger.executed[f"choose {order}"] += 1
            return f"{order}: {context.resume_data}"

        return [refund, look, choose]

    def _workflow(self, memory: Memory) -> Workflow:
        ledger = self.ledger

        async def look_up(order: str) -> int:
            return len(order)

        async def pay(order: str, amount: int) -> str:
            ledger.steps[order] += 1
            await asyncio.sleep(0)
            return f"{order}: {amount}"

        @workflow(memory=memory)
        async def pay_back(ctx: WorkflowContext, order: str) -> str:
            """Pay back an order if somebody says how much."""
            found = await ctx.step("look up", look_up, order)
            amount = await ctx.suspend("how much", {"order": order, "length": found}, answer=int)
            return str(await ctx.step("pay", pay, order, amount, once=True))

        return pay_back

    def _helper(self) -> Agent:
        return Agent("helper", description="Helps.", model=self.models.helper, tools=self._tools())

    def _lead(self, memory: Memory, pay: Workflow, *, guarded: bool) -> Agent:
        guard = [Guard(random.Random(f"{self.seed}/guard"))] if guarded else []
        return Agent(
            "guarded" if guarded else "lead",
            model=self.models.lead,
            memory=memory,
            tools=[*self._tools(), pay.tool()],
            agents=[self._helper()],
            input_processors=guard,
            output_processors=guard,
        )

    def _router(self, memory: Memory, pay: Workflow) -> Agent:
        return Agent(
            "router",
            model=self.models.router,
            memory=memory,
            tools=[*self._tools(), pay.tool()],
            agents=[self._helper()],
        )

    async def settled(self) -> None:
        """Wait until nothing goes on in the background of any memory."""
        for memory in self.memories:
            await memory.settled(120)

    async def aclose(self) -> None:
        for memory in self.memories:
            await memory.aclose()
