"""What one worker of one user does: a random choice of everything that users do, one thing after another."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any, TypeAlias

from threadmark import (
    Agent,
    ApprovalError,
    ConflictError,
    Memory,
    ModelError,
    NotFoundError,
    RequestContext,
    Speaker,
)
from threadmark.agents import AgentResult, PendingCall, UsageLimits
from threadmark.agents.network import NetworkResult

from .ledger import MARKS, Gone, Said
from .world import FORBIDDEN, World

EXPECTED = (ApprovalError, ConflictError, NotFoundError)
"""What others may have caused: they decided, deleted, or were faster."""

Result: TypeAlias = AgentResult | NetworkResult


class Life:
    """Worker `number` of `user`, who has `threads` threads besides those that come and go."""

    def __init__(self, world: World, user: str, number: int, threads: int = 3) -> None:
        self.world, self.ledger = world, world.ledger
        self.user, self.number = user, number
        self.chance = random.Random(f"{world.seed}/{user}/{number}")
        self.mark = world.mark(user)
        self._threads = threads
        self._count = 0

    async def live(self, steps: int) -> None:
        """Do so many things. What fails as others may have caused it is counted; anything else is wrong."""
        things: Sequence[tuple[float, Callable[[], Awaitable[None]]]] = (
            (40, self.talk), (8, self.read_some), (8, self.give_up), (6, self.route), (5, self.be_stopped),
            (3, self.fail), (4, self.repeat), (3, self.look_around), (4, self.clone), (3, self.delete_some),
            (1.5, self.delete_thread), (1.5, self.erase_thread), (2, self.erase_speaker),
            (4, self.decide_late), (2, self.hand_over), (2, self.run_workflow), (1, self.note),
            (1, self.let_expire), (0.3, self.erase_all),
        )  # fmt: skip
        for _ in range(steps):
            thing = self.chance.choices([thing for _, thing in things], [weight for weight, _ in things])[0]
            try:
                await thing()
                self.ledger.done[thing.__name__] += 1
            except EXPECTED as error:
                self.ledger.errors[f"{thing.__name__}: {type(error).__name__}"] += 1
            except Exception as error:
                if isinstance(error, ModelError) and "the provider is down" in str(error):
                    continue  # a run that goes on sees what was said meanwhile, also what fails
                error.add_note(f"{self.user}, worker {self.number}, {thing.__name__}")
                raise

    # -- talking -------------------------------------------------------------------------------------

    async def talk(self, **options: Any) -> None:
        """Ask, and decide what then waits."""
        agent, thread, chosen = self._agent(), self._thread(), {**self._options(), **options}
        said = self._said(thread, chosen)
        result = await agent.generate(said.text, resource=self.user, thread=thread, **chosen)
        self._acknowledge(said, result)
        await self._decide(agent.name, said, result, 4)

    async def read_some(self) -> None:
        """Read a stream to its end, or leave off; the run goes on."""
        agent, thread, options = self._agent(), self._thread(), self._options()
        said = self._said(thread, options)
        async with agent.stream(said.text, resource=self.user, thread=thread, **options) as stream:
            async for event in stream:
                if event.type == "text-delta" and self.chance.random() < 0.2:
                    break
        result = await stream.result()
        self._acknowledge(said, result)
        await self._decide(agent.name, said, result, 1)

    async def give_up(self) -> None:
        """Cancel a call at a random moment. It is stored or not, and never twice."""
        agent, thread, options = self._agent(), self._thread(), self._options()
        said = self._said(thread, options)
        stream = self.chance.random() < 0.5
        if stream:
            made = agent.stream(said.text, resource=self.user, thread=thread, **options)
            task = asyncio.ensure_future(made.result())
        else:
            task = asyncio.ensure_future(
                agent.generate(said.text, resource=self.user, thread=thread, **options)
            )
        await asyncio.sleep(self.chance.random() * 0.06)
        if stream:
            made.cancel()
        else:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            self._acknowledge(said, await task)

    async def fail(self) -> None:
        """The model fails; the question is stored."""
        agent, thread = self._agent(guarded=False), self._thread()
        said = self._said(thread, {}, "please fail")
        try:
            await agent.generate(said.text, resource=self.user, thread=thread)
            self.ledger.wrong.append(f"{said} did not fail")
        except ModelError:
            said.ended = self.ledger.now()
            self.ledger.said.append(said)

    async def be_stopped(self) -> None:
        """A processor stops the run: nothing of it is stored."""
        options: Any = {"save_user_first": self.chance.random() < 0.3}
        thread = self._thread()
        said = self._said(thread, {}, FORBIDDEN)
        agent = self._agent(guarded=True)
        result = await agent.generate(said.text, resource=self.user, thread=thread, **options)
        if result.tripwire is None or result.message is not None:
            self.ledger.wrong.append(f"{said} was not stopped: {result}")
        self.ledger.stopped.add(said.text)

    async def repeat(self) -> None:
        """The same call twice, also at once, is made once."""
        agent, thread = self._agent(guarded=False), self._thread()
        said = self._said(thread, {})
        call: Any = {
            "resource": self.user,
            "thread": thread,
            "run_id": f"run {self._count} of {self.mark} {self.number}",
        }
        together = self.chance.random() < 0.5
        if together:
            results = await asyncio.gather(*[_outcome(agent.generate(said.text, **call)) for _ in range(2)])
        else:
            results = [await _outcome(agent.generate(said.text, **call)) for _ in range(2)]
        made = [one for one in results if isinstance(one, AgentResult)]
        for failure in results:
            if isinstance(failure, BaseException) and not isinstance(failure, EXPECTED):
                raise failure
        if made:
            self._acknowledge(said, made[0])

    async def route(self) -> None:
        """A network."""
        agent, thread = self.chance.choice(self.world.routers), self._thread()
        said = self._said(thread, {})
        stream = agent.network(said.text, resource=self.user, thread=thread, max_steps=3)
        async with stream:
            pass
        result = await stream.result()
        if result.status in ("finished", "suspended"):
            self._acknowledge(said, result)
        await self._decide("router", said, result, 3)

    # -- deciding ------------------------------------------------------------------------------------

    async def _decide(self, name: str, said: Said, result: Result, rounds: int) -> None:
        """Approve, decline or answer what waits, one call at a time, by whichever agent of that name."""
        for _ in range(rounds):
            if not result.pending or self.chance.random() < 0.15:
                return
            result = await self._decided(name, result.run_id, self.chance.choice(result.pending))
            if not result.pending and said.answer is not None:
                self._acknowledge(said, result)

    async def decide_late(self) -> None:
        """Decide something that has waited, in a run of anybody's worker."""
        agent = self._agent()
        page = await agent.runs.suspended(resource=self.user)
        if not page.runs:
            return
        run = self.chance.choice(page.runs)
        if self.chance.random() < 0.2:
            orders = [_order(call) for call in run.pending]
            await agent.runs.cancel(run.run_id, resource=self.user)
            self.ledger.declined.update(orders)
        elif run.pending:
            await self._decided(agent.name, run.run_id, self.chance.choice(run.pending))

    async def _decided(self, name: str, run_id: str, call: PendingCall) -> Result:
        boss = RequestContext(resource=self.user, speaker=Speaker(id=f"boss of {self.mark}"))
        order, agent = _order(call), self._named(name)
        network = name == "router"
        target: Any = call if self.chance.random() < 0.8 else call.tool_call_id
        if call.kind == "suspension" and self.chance.random() < 0.8:
            if network:
                return await agent.resume_network(
                    7, run_id=run_id, tool_call_id=call, request_context=boss
                ).result()
            return await agent.resume(run_id, 7, tool_call_id=call, request_context=boss)
        if call.kind == "approval" and self.chance.random() < 0.7:
            self.ledger.approved.add(order)
            if network:
                return await agent.approve_network_tool_call(
                    target, run_id=run_id, request_context=boss
                ).result()
            return await agent.approve(run_id, target, request_context=boss)
        if network:
            result: Result = await agent.decline_network_tool_call(
                target, run_id=run_id, request_context=boss
            ).result()
        else:
            result = await agent.decline(run_id, target, reason="no", request_context=boss)
        self.ledger.declined.add(order)
        return result

    async def let_expire(self) -> None:
        """A run that waits for a moment at most; then time goes on."""
        agent, thread = self._agent(guarded=False), self._thread()
        said = self._said(thread, {})
        result = await agent.generate(said.text, resource=self.user, thread=thread, pause_ttl=60.0)
        self._acknowledge(said, result)
        self.world.clock.ahead += timedelta(seconds=61)
        for call in result.pending:
            self.ledger.approved.add(_order(call))
            try:
                await agent.approve(result.run_id, call, resource=self.user)
                self.ledger.wrong.append(f"{call} was approved after its time")
            except EXPECTED:
                pass

    # -- memory --------------------------------------------------------------------------------------

    async def look_around(self) -> None:
        """Read what there is."""
        memory, thread = self._memory(), self._thread()
        user = memory.resource(self.user)
        for hit in (await user.recall(f"{self.mark} order")).hits:
            self._is_mine(hit.message.text)
        for listed in await user.threads.list():
            self._is_mine(f"{listed.title} {dict(listed.metadata)}")
        handle = user.thread(thread)
        await handle.observations.status()
        for note in (await handle.observations.list()).observations:
            self._is_mine(note.text)
        await user.working_memory.get()
        await user.export()

    def _is_mine(self, text: str) -> None:
        if any(found != self.mark for found in MARKS.findall(text)):
            self.ledger.wrong.append(f"{self.user} was given {text!r}")

    async def note(self) -> None:
        """Change working memory by hand."""
        await self._memory().resource(self.user).working_memory.set(f"# About {self.mark}")

    async def clone(self) -> None:
        options: Any = self.chance.choice([{}, {"last": 2}])
        await self._memory().resource(self.user).thread(self._thread()).clone(title=self.mark, **options)

    async def delete_some(self) -> None:
        thread = self._thread()
        handle = self._memory().resource(self.user).thread(thread)
        page = await handle.messages(per_page=10)
        if not page.messages:
            return
        message, began = self.chance.choice(page.messages), self.ledger.now()
        if await handle.delete_messages([message.id]):
            self._gone(began, thread, text=message.text)
            for said in self.ledger.said:
                if said.answer is not None and said.answer[0] == message.id:
                    said.answer = None

    async def delete_thread(self) -> None:
        thread, began = self._thread(), self.ledger.now()
        await self._memory().resource(self.user).thread(thread).delete()
        self._gone(began, thread)

    async def erase_thread(self) -> None:
        thread, began = self._thread(), self.ledger.now()
        await self._memory().resource(self.user).thread(thread).erase(scrub=False)
        self._gone(began, thread)

    async def erase_all(self) -> None:
        began = self.ledger.now()
        await self._memory().resource(self.user).erase(scrub=False)
        self._gone(began, None)

    async def erase_speaker(self) -> None:
        thread, speaker, began = self._thread(), self._speaker(), self.ledger.now()
        handle = self._memory().resource(self.user).thread(thread)
        await handle.erase_speaker(speaker.id, scrub=False)
        self._gone(began, thread, speaker=speaker.id)

    async def hand_over(self) -> None:
        """Give a thread to the other of the household."""
        if self.mark != self.world.marks[-1]:
            return
        other = next(user for user in self.world.users[-2:] if user != self.user)
        thread, agent = f"gift {self._count} of {self.number} {self.mark}", self._agent(guarded=False)
        said = self._said(thread, {})
        self._acknowledge(said, await agent.generate(said.text, resource=self.user, thread=thread))
        await self._memory().admin.transfer(thread, to=other, owner=self.user)
        self.ledger.moved(self.user, thread, other)

    async def run_workflow(self) -> None:
        """A workflow of its own: run, answered or cancelled."""
        flow, self._count = self.chance.choice(self.world.workflows), self._count + 1
        place: Any = {"resource": self.user}
        order = f"{self.mark}-flow-{self.user}-{self.number}-{self._count}"
        waiting = await flow.run(order=order, thread=self._thread(), run_id=f"run of {order}", **place)
        other = self.chance.choice(self.world.workflows)
        if self.chance.random() < 0.2:
            await other.cancel(waiting.run_id, **place)
            return
        answers = [other.resume(waiting.run_id, 7, **place) for _ in range(self.chance.choice([1, 2]))]
        done = await asyncio.gather(*answers, return_exceptions=True)
        for one in done:
            if isinstance(one, BaseException) and not isinstance(one, EXPECTED):
                raise one

    # -- choices -------------------------------------------------------------------------------------

    def _said(self, thread: str, options: Any, what: str = "hello") -> Said:
        self._count += 1
        speaker: Speaker | None = options.get("speaker")
        text = f"{what} {self.mark} from {self.user} {self.number} number {self._count}"
        if self.chance.random() < 0.3:
            text += " long" * self.chance.randrange(200)
        self.ledger.asked.append((self.user, text))
        return Said(
            owner=self.user,
            thread=thread,
            worker=self.number,
            text=text,
            began=self.ledger.now(),
            ended=-1,
            speaker=None if speaker is None else speaker.id,
        )

    def _acknowledge(self, said: Said, result: Result) -> None:
        if isinstance(result, AgentResult):
            check_report(result, self.ledger.wrong)
            if result.tripwire is not None:
                self.ledger.stopped.add(said.text)
                return
            if result.finish_reason in ("timeout", "aborted") and not result.messages:
                return  # it ended before its input was accepted, and says so
        if said.ended < 0:
            said.ended = self.ledger.now()
            self.ledger.said.append(said)
        message = result.message
        said.answer = None if message is None or result.pending else (message.id, message.text)

    def _gone(self, began: int, thread: str | None, **what: str) -> None:
        gone = Gone(owner=self.user, thread=thread, began=began, ended=self.ledger.now(), **what)
        self.ledger.gone.append(gone)

    def _options(self) -> dict[str, Any]:
        roll = self.chance.random()
        if roll < 0.2:
            return {"speaker": self._speaker()}
        if roll < 0.3:
            return {"usage_limits": UsageLimits(requests=self.chance.randint(1, 3), tool_calls=2)}
        if roll < 0.4:
            return {"save_user_first": True}
        if roll < 0.48:
            return {"max_context_tokens": 2500}
        if roll < 0.52:
            return {"timeout": 0.002 + self.chance.random() * 0.05}
        if roll < 0.55:
            return {"output": {"type": "object", "properties": {"order": {"type": "string"}}}}
        return {}

    def _speaker(self) -> Speaker:
        number = self.chance.randrange(3)
        return Speaker(id=f"{self.mark}-{number}", name=f"Speaker {number} of {self.mark}")

    def _thread(self) -> str:
        return f"t{self.chance.randrange(self._threads)} {self.mark}"

    def _memory(self) -> Memory:
        return self.chance.choice(self.world.memories)

    def _agent(self, guarded: bool | None = None) -> Agent:
        guarded = self.chance.random() < 0.3 if guarded is None else guarded
        return self._named("guarded" if guarded else "lead")

    def _named(self, name: str) -> Agent:
        world = self.world
        return self.chance.choice(
            {"lead": world.leads, "guarded": world.guarded, "router": world.routers}[name]
        )


def check_report(result: AgentResult, wrong: list[str]) -> None:
    """What the context report says of a turn must be possible."""
    report = result.context
    shown = [id_ for block in report.blocks if block.kind in ("history", "input") for id_ in block.sources]
    if len(shown) != len(set(shown)):
        wrong.append(f"messages stand twice in a prompt: {report}")
    if set(shown) & set(report.dropped):
        wrong.append(f"what was dropped is in the prompt: {report}")
    if not 0 <= report.prefix_reuse <= 1 or report.tokens < 0:
        wrong.append(f"impossible figures: {report}")


async def _outcome(one: Awaitable[AgentResult]) -> AgentResult | BaseException:
    try:
        return await one
    except Exception as error:
        return error


def _order(call: PendingCall) -> str:
    """The order that a pending call is about, by which its execution is counted."""
    args = call.args if isinstance(call.args, dict) else {}
    order = str(args.get("order", ""))
    return f"choose {order}" if call.tool_name == "choose" else order
