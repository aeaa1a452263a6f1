"""A process that starts a workflow that waits, or answers it."""

import asyncio
import json
import sys
from pathlib import Path

from threadmark import Memory, ThreadmarkError, WorkflowContext, workflow


async def main(database: str, trace: Path, what: str) -> None:
    memory = Memory(f"sqlite:///{database}")

    async def pay(amount: int) -> str:
        with trace.open("a") as file:
            file.write("pay\n")
        await asyncio.sleep(0.3)
        return f"paid {amount}"

    @workflow(memory=memory)
    async def refund(ctx: WorkflowContext) -> str:
        amount = await ctx.suspend("how much", answer=int)
        paid: str = await ctx.step("pay", pay, amount, once=True)
        return paid

    try:
        if what == "start":
            result = await refund.run(resource="ana", thread="t", run_id="r")
        else:
            result = await refund.resume("r", 42, resource="ana")
        said = {"status": result.status, "output": result.output}
    except ThreadmarkError as error:
        said = {"status": type(error).__name__, "output": str(error)}
    sys.stdout.write(json.dumps(said))


asyncio.run(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))
