"""The tool calls of one step, from the answer that asks for them to their outcomes in it."""

from __future__ import annotations

from .._types import Message, ToolPart
from .calls import run_calls
from .hooks import for_model
from .state import RunState
from .tools import ToolContext


async def run_tools(state: RunState, indexes: list[int]) -> None:
    """Run the calls at `indexes` of the answer, and put each outcome in its place."""
    calls = [part for index in indexes if isinstance(part := state.parts[index], ToolPart)]
    seen: list[tuple[Message, ...]] = []

    def context(call: ToolPart) -> ToolContext:
        if not seen:
            before = [message for message in state.seen if message.id != state.message_id]
            seen.append((*before, state.message()))
        plan, turn = state.plan, state.turn
        return ToolContext(
            run_id=plan.run_id,
            tool_call_id=call.tool_call_id,
            tool_name=call.tool_name,
            agent=plan.agent,
            resource_id=None if turn is None else turn.resource_id,
            thread_id=None if turn is None else turn.thread_id,
            request_context=plan.request_context,
            messages=seen[0],
        )

    def settled(index: int, outcome: ToolPart) -> None:
        state.parts[indexes[index]] = outcome
        state.tell(outcome)

    guards, limit, hooks = state.guards, state.plan.tool_concurrency, state.plan.hooks
    if guards is None or not guards.sees_tool_results:
        await run_calls(calls, state.tools, context, limit, settled, hooks)
        return
    # Until a processor has seen an outcome, the call counts as open.
    outcomes: list[ToolPart] = []
    await run_calls(calls, state.tools, context, limit, lambda _, outcome: outcomes.append(outcome), hooks)
    for index, outcome in enumerate(outcomes):
        # What the model is shown is made of the output that processors accepted.
        settled(index, await for_model(await guards.tool_result(outcome), state.tools))
