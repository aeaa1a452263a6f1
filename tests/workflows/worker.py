"""A process that runs, or goes on with, one workflow; killed by the test at any moment."""

import asyncio
import sys
from pathlib import Path

from threadmark import Memory, WorkflowContext, WorkflowStepError, workflow
from threadmark.memory import runs


async def main(database: str, trace: Path, run_id: str) -> None:
    runs.LEASE = 0.05  # the next process shall not wait
    memory = Memory(f"sqlite:///{database}")

    async def mark(name: str) -> str:
        with trace.open("a") as file:
            file.write(f"{run_id} {name}\n")
        await asyncio.sleep(0.002)
        return name.upper()

    @workflow(memory=memory)
    async def chores(ctx: WorkflowContext, names: list[str]) -> list[str]:
        done = await ctx.foreach("chore", mark, names, concurrency=2)
        try:
            await ctx.step("pay", mark, "pay", once=True)
        except WorkflowStepError:
            done.append("unknown")
        if await ctx.suspend("sure?", answer=bool):
            done.append(await ctx.step("last", mark, "last"))
        return done

    stored = await chores.get(run_id, resource="ana")
    if stored is None or stored.status == "running":
        await asyncio.sleep(0.06 if stored else 0)
        stored = await chores.run(names=["a", "b", "c"], resource="ana", thread="t", run_id=run_id)
    if stored.status == "suspended":
        stored = await chores.resume(run_id, True, resource="ana")
    sys.stdout.write(",".join(stored.output))


asyncio.run(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))
