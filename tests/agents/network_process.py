"""A process that starts a network which waits twice, approves its first call, or answers its workflow."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from threadmark import Agent, Memory, ThreadmarkError, WorkflowContext, tool, workflow
from threadmark.models import ModelRequest
from threadmark.testing import ScriptedModel, ToolCall


def routed(request: ModelRequest) -> str:
    """Routes by what was done, as a model would."""
    told = request.messages[-1].text
    wiped, paid = 'by="agent-lead" outcome="result"' in told, 'by="workflow-pay" outcome="result"' in told
    if "# Is it done?" in request.instructions:
        result = "Wiped, and 42 were paid." if paid else None
        return json.dumps({"is_complete": paid, "completion_reason": "", "final_result": result})
    chosen = {"primitive_id": "pay", "primitive_type": "workflow", "prompt": "{}"}
    if not wiped:
        chosen = {"primitive_id": "lead", "primitive_type": "agent", "prompt": "Wipe it"}
    return json.dumps(chosen)


def delegates(request: ModelRequest) -> Any:
    done = request.messages[-1].role == "assistant"
    return "It is wiped." if done else ToolCall("agent-worker", {"prompt": "Wipe it"})


def wipes(request: ModelRequest) -> Any:
    return "It is wiped." if request.messages[-1].role == "assistant" else ToolCall("wipe", {})


async def main(database: str, trace: Path, what: str) -> None:
    memory = Memory(f"sqlite:///{database}")

    async def note(name: str) -> None:
        with trace.open("a") as file:
            file.write(f"{name}\n")
        await asyncio.sleep(0.2)

    @tool(requires_approval=True)
    async def wipe() -> str:
        """Wipe it."""
        await note("wipe")
        return "wiped"

    @workflow(memory=memory)
    async def pay(ctx: WorkflowContext) -> str:
        """Pay what a person says."""
        amount = await ctx.suspend("how much", answer=int)
        await ctx.step("pay", note, "pay", once=True)
        return f"paid {amount}"

    worker = Agent("worker", model=ScriptedModel(wipes), tools=[wipe])
    lead = Agent("lead", model=ScriptedModel(delegates), agents=[worker])
    router = Agent("router", model=ScriptedModel(routed), memory=memory, agents=[lead], tools=[pay.tool()])
    if what == "start":
        stream = router.network("Wipe it and pay.", resource="ana", thread="t", run_id="r")
    elif what == "approve":
        stream = router.approve_network_tool_call(run_id="r", resource="ana")
    else:
        stream = router.resume_network(42, run_id="r", resource="ana")
    try:
        async with stream:
            pass
        result = await stream.result()
        said = {
            "status": result.status,
            "text": result.text,
            "pending": [call.tool_name for call in result.pending],
            "complete": result.is_complete,
        }
    except ThreadmarkError as error:
        said = {"status": type(error).__name__, "text": str(error)}
    sys.stdout.write(json.dumps(said))


asyncio.run(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))
