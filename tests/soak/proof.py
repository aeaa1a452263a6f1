"""What must hold at the end of a soak, however its lives went."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from threadmark import ConflictError, Message
from threadmark.stores.maintenance import check_store

from .ledger import Ledger, Said
from .world import World

Rows = Callable[[], Iterable[tuple[str, str]]]
"""Every row of the database as a table's name and text; in a file, its bytes."""

Threads = dict[tuple[str, str], list[Message]]


async def settle_runs(world: World) -> None:
    """Decline whatever still waits. Afterwards nothing may wait, nor be under way, for anybody."""
    for user in world.users:
        for agent in (world.leads[0], world.guarded[0], world.routers[0]):
            while (page := await agent.runs.suspended(resource=user)).runs:
                for run in page.runs:
                    await agent.runs.cancel(run.run_id, resource=user)
        # Those whose lead's thread was deleted wait on; whoever has the sub-agent can end them.
        helper, owner = world.leads[0]._team.agents["helper"], f"{user}-helper"
        for run in await helper.runs.suspended(resource=owner, memory=world.memories[0], per_page=None):
            await helper.runs.cancel(run.run_id, resource=owner, memory=world.memories[0])
        for flow_run in await world.memories[0].resource(user).runs(per_page=None, status="suspended"):
            flow = world.workflows[0]
            if flow_run.agent == f"workflow:{flow.name}":
                with contextlib.suppress(ConflictError):
                    await flow.cancel(flow_run.id, resource=user)
    await world.settled()
    for owner in await world.memories[0].admin.resources(limit=1000):
        for record in await world.memories[0].resource(owner).runs(per_page=None):
            if record.status in ("running", "suspended"):
                world.ledger.wrong.append(f"{owner} has a run that nobody can end: {record}")


async def read_threads(world: World) -> Threads:
    """All messages of all threads."""
    found: Threads = {}
    for user in world.users:
        handle = world.memories[0].resource(user)
        for thread in await handle.threads.list(per_page=None):
            page = await handle.thread(thread.id).messages(per_page=None)
            found[user, thread.id] = list(page.messages)
    return found


def check_threads(ledger: Ledger, threads: Threads) -> None:
    """Every acknowledged message is there once, in its order; what was taken away is not."""
    for (owner, thread), messages in threads.items():
        place = f"thread {thread!r} of {owner}"
        seqs = [message.seq or 0 for message in messages]
        if seqs != sorted(set(seqs)):
            ledger.wrong.append(f"{place} is out of order: {seqs}")
        texts = [message.text for message in messages if message.role == "user"]
        if len(texts) != len(set(texts)):
            ledger.wrong.append(f"{place} has a message twice: {sorted(texts)}")
        for text in ledger.stopped & set(texts):
            ledger.wrong.append(f"{place} has what a processor has stopped: {text!r}")
    workers: dict[tuple[str, str, int], list[Said]] = defaultdict(list)
    for said in ledger.said:
        workers[said.owner, said.thread, said.worker].append(said)
    for (owner, thread, _), told in workers.items():
        messages = threads.get((owner, thread), [])
        places = {message.text: n for n, message in enumerate(messages) if message.role == "user"}
        answers = {message.id: message.text for message in messages}
        last = -1
        for said in sorted(told, key=lambda one: one.began):
            gone = [one for one in ledger.gone if one.takes(said)]
            before = [one for one in gone if one.ended > said.began]  # perhaps after it was stored
            if said.text not in places:
                if not before:
                    ledger.wrong.append(f"lost: {said}")
                continue
            if any(one.began > said.ended for one in gone):
                ledger.wrong.append(f"was taken away, and is there: {said}")
            if places[said.text] < last:
                ledger.wrong.append(f"is before what was said earlier: {said}")
            last = places[said.text]
            if said.answer is not None and not before and answers.get(said.answer[0]) != said.answer[1]:
                ledger.wrong.append(
                    f"has another answer than was given, {answers.get(said.answer[0])}: {said}"
                )


def check_orders(ledger: Ledger) -> None:
    """Nothing was executed twice, without an approval, or after it was declined."""
    for name, counted in (("order", ledger.executed), ("step", ledger.steps)):
        twice = [what for what, times in counted.items() if times > 1]
        if twice:
            ledger.wrong.append(f"{name}s that were executed twice: {twice}")
    made = set(ledger.executed)
    if made & ledger.declined:
        ledger.wrong.append(f"executed and declined: {made & ledger.declined}")
    unasked = {order for order in made if not order.startswith("choose")} - ledger.approved
    if unasked:
        ledger.wrong.append(f"executed without approval: {unasked}")


async def check_database(world: World) -> None:
    """`threadmark check` finds nothing."""
    for problem in await check_store(world.memories[0].store):
        world.ledger.wrong.append(f"threadmark check: {problem}")


async def check_erased(world: World, rows: Rows, leaving: Iterable[str]) -> None:
    """Nothing of owners that were erased is anywhere; something of all others that spoke is."""
    for user in leaving:
        receipt = await world.memories[0].resource(user).erase()
        if world.url.startswith("sqlite") and not receipt.scrubbed:
            world.ledger.wrong.append(f"the file was not scrubbed for {user}")
    gone = {world.mark(user) for user in leaving}
    gone -= {world.mark(user) for user in world.users if user not in leaving}
    for table, text in rows():
        for mark in gone:
            if mark in text:
                place = text.index(mark)
                world.ledger.wrong.append(f"{table} has {text[max(0, place - 200) : place + 200]!r}")


def check_nothing_runs(ledger: Ledger, before: set[asyncio.Task[Any]]) -> None:
    """No task is left that was not there before."""
    left = asyncio.all_tasks() - before
    if left:
        ledger.wrong.append(f"tasks that are left: {left}")


def open_files(path: Path) -> list[str]:
    """What this process has open of a database's files."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{name}")
            if target.startswith(str(path)):
                found.append(target)
    return found
