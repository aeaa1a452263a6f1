"""Processes killed between a pause and its answer, and processes that approve one call at the same time."""

from __future__ import annotations

import asyncio
import collections
import json
import random
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import pytest
from pause_workers import make, make_lead
from postgres_harness import drop
from zygote import Zygote

from threadmark import Memory, ToolPart
from threadmark.memory.runs import UNKNOWN
from threadmark.stores.base import MessageQuery

pytestmark = pytest.mark.anyio


@pytest.fixture
def zygote(tmp_path: Path) -> Iterator[Zygote]:
    with Zygote(tmp_path / "errors.log") as made:
        yield made


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Where the tools note that they were executed."""
    return tmp_path / "executed"


def executions(log: Path, by: Literal[0, 1] = 0) -> collections.Counter[str]:
    """How often the tool was executed: by its run (0), or by what it was to do, a lead's run (1)."""
    lines = log.read_text().splitlines() if log.exists() else []
    return collections.Counter(json.loads(line)[by] for line in lines)


def later() -> datetime:
    """A clock by which every lease of a dead process is over."""
    return datetime.now(UTC) + timedelta(hours=1)


async def ended(memory: Memory, seen: set[str]) -> dict[str, tuple[str, str, str | None]]:
    """Of each run that was not seen before its status, and the state and error of its call."""
    found: dict[str, tuple[str, str, str | None]] = {}
    for run in await memory.resource("ann").runs(per_page=200):
        if run.id in seen:
            continue
        query = MessageQuery(thread_id=run.thread_id, run_id=run.id)
        messages = await memory.store.list_messages("ann", query)
        calls = [part for m in messages for part in m.parts if isinstance(part, ToolPart)]
        found[run.id] = (run.status, calls[0].state if calls else "", calls[0].error if calls else None)
    return found


def place(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if kind == "sqlite":
        return f"sqlite:///{tmp_path / 'memory.db'}?busy_timeout=60"
    server: str = request.getfixturevalue("postgres")
    schema = f"pause{time.monotonic_ns()}"
    request.addfinalizer(lambda: drop(server, schema))
    return f"{server}&schema={schema}" if "?" in server else f"{server}?schema={schema}"


@pytest.fixture
async def url(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A URL of an empty memory of that kind; its tables are made before anybody is killed."""
    made = place(kind, request, tmp_path)
    async with Memory(made) as memory:
        assert await memory.admin.resources() == []
    return made


@pytest.mark.parametrize(
    ("kind", "kills"),
    [
        ("sqlite", 80),
        ("postgres", 25),
        pytest.param("sqlite", 320, marks=pytest.mark.nightly),
        pytest.param("postgres", 320, marks=pytest.mark.nightly),
    ],
)
async def test_kills_between_pause_and_answer(
    zygote: Zygote, url: str, log: Path, capsys: pytest.CaptureFixture[str], kind: str, kills: int
) -> None:
    """After each kill every run is over, waits, or can be gone on with; no approval was executed twice.

    A call that was claimed and not confirmed is reported as unknown, with its arguments, and not made again.
    """
    choose = random.Random(6)
    phases: collections.Counter[str] = collections.Counter()
    seen: set[str] = set()
    start = time.perf_counter()
    for kill in range(kills):
        child = zygote.start("pause_workers:pause_and_approve", url, str(log), f"w{kill}")
        await asyncio.sleep((0.03 + choose.random() * 0.09) * (1 if kind == "sqlite" else 2))
        zygote.kill(child)
        async with Memory(url, clock=later) as memory:
            agent = make(memory, str(log))
            before = executions(log)
            for run in await agent.runs.suspended(resource="ann", per_page=None):
                for unknown in run.unknown:
                    assert (unknown.args, unknown.error) == ({"what": run.run_id}, UNKNOWN)
                if run.pending:
                    phases["waited"] += 1
                    assert before[run.run_id] == 0, "executed before it was approved"
                    result = await agent.approve(run.run_id, run.pending[0], resource="ann")
                    assert executions(log)[run.run_id] == 1
                else:
                    phases["unknown" if run.unknown else "executed"] += 1
                    result = await agent.resume(run.run_id, resource="ann")
                    assert executions(log)[run.run_id] == before[run.run_id] <= 1, "made again"
                assert result.text == "Done."
            for run_id, (status, state, error) in (await ended(memory, seen)).items():
                seen.add(run_id)
                done = executions(log)[run_id]
                phases["finished or recovered"] += status == "finished"
                if status == "finished":
                    assert (state, done) == ("result", 1) or (state, error) == ("interrupted", UNKNOWN)
                else:  # its process died before the pause was stored
                    assert (status, state, done) == ("aborted", "", 0)
            assert (await agent.runs.suspended(resource="ann")).total == 0
    counted = executions(log)
    assert max(counted.values()) == 1, "an approval was executed twice"
    assert set(counted) <= seen, "a run was lost"
    assert not zygote.errors(), zygote.errors()
    met = ("waited", "unknown", "executed") if kills >= 80 else ("waited",)
    assert min([phases[phase] for phase in met]) > 0, phases
    with capsys.disabled():
        sys.stdout.write(
            f"\n{kills} kills in {time.perf_counter() - start:.0f} s: {len(seen)} runs, "
            f"{len(counted)} executions, {dict(phases)}\n"
        )


@pytest.mark.parametrize(
    ("kind", "kills"),
    [
        ("sqlite", 40),
        pytest.param("sqlite", 300, marks=pytest.mark.nightly),
        pytest.param("postgres", 300, marks=pytest.mark.nightly),
    ],
)
async def test_kills_while_a_sub_agent_waits(
    zygote: Zygote, url: str, log: Path, capsys: pytest.CaptureFixture[str], kind: str, kills: int
) -> None:
    """After each kill every lead is over, waits, or can be gone on with; no call below was made twice.

    Whatever a lead lists as pending can be decided, and with that, or with `resume`, it comes to its end.
    """
    choose = random.Random(7)
    phases: collections.Counter[str] = collections.Counter()
    start = time.perf_counter()

    for kill in range(kills):
        child = zygote.start("pause_workers:pause_and_approve_below", url, str(log), f"w{kill}")
        await asyncio.sleep((0.04 + choose.random() * 0.12) * (1 if kind == "sqlite" else 3))
        zygote.kill(child)
        async with Memory(url, clock=later) as memory:
            agent = make_lead(memory, str(log))
            for run in await agent.runs.suspended(resource="ann", per_page=None):
                before = executions(log, 1)
                if run.pending:
                    phases["waited"] += 1
                    (call,) = run.pending
                    assert (call.path, before[run.run_id]) == (("a",), 0), "executed before it was approved"
                    result = await agent.approve(run.run_id, call, resource="ann")
                    assert executions(log, 1)[run.run_id] == 1
                else:
                    phases["gone on"] += 1
                    result = await agent.resume(run.run_id, resource="ann")
                    assert executions(log, 1)[run.run_id] == before[run.run_id] <= 1, "made again"
                assert (result.text, result.finish_reason) == ("Done.", "stop")
            assert (await agent.runs.suspended(resource="ann")).total == 0
            ends = [run.status for run in await memory.resource("ann").runs(per_page=200)]
            assert set(ends) <= {"finished", "aborted"}
    counted = executions(log, 1)
    assert max(counted.values()) == 1, "an approval was executed twice"
    assert not zygote.errors(), zygote.errors()
    assert phases, "every kill came before the first pause"
    with capsys.disabled():
        sys.stdout.write(
            f"\n{kills} kills below, {kind}, in {time.perf_counter() - start:.0f} s: "
            f"{len(counted)} executions, {dict(phases)}\n"
        )


@pytest.mark.parametrize(
    ("kind", "rounds"),
    [
        ("sqlite", 100),
        ("postgres", 40),
        pytest.param("sqlite", 1000, marks=pytest.mark.nightly),
        pytest.param("postgres", 1000, marks=pytest.mark.nightly),
    ],
)
async def test_one_call_approved_eight_times_at_once(
    zygote: Zygote,
    url: str,
    log: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    rounds: int,
) -> None:
    """Four processes with two tasks each approve every call: as many executions as there are calls."""
    told = tmp_path / "told"
    async with Memory(url) as memory:
        agent = make(memory, str(log))
        for n in range(rounds):
            await agent.generate(str(n), resource="ann", thread=f"t{n % 50}", run_id=f"run {n}")
    children = [
        zygote.start("pause_workers:approve_all", url, str(log), str(told), 2, rounds, process)
        for process in range(4)
    ]
    assert [zygote.wait(child) for child in children] == [0] * 4, zygote.errors()
    counted = executions(log)
    assert (len(counted), set(counted.values())) == (rounds, {1})
    won = [int(line.split()[1]) for line in told.read_text().splitlines()]
    assert sum(won) == rounds
    with capsys.disabled():
        sys.stdout.write(f"\n{rounds} calls, 8 approvals of each: {sum(won)} executions, by process {won}\n")
