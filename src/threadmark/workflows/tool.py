"""A workflow as a tool of an agent: called by a model, suspended with the agent's run, resumed with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._errors import ValidationError
from .._ids import new_id
from ..agents.tools import Tool, ToolContext
from .events import OnWorkflowEvent

if TYPE_CHECKING:
    from .definition import Workflow


def workflow_tool(workflow: Workflow) -> Tool:
    """The tool `workflow-<name>`.

    Its runs are recorded in the agent's thread, if the workflow has a memory and the agent was called with
    an owner. Its events are told as `tool-output` of the call. What a suspended run waits for is the payload
    of the suspended call; an answer that does not fit leaves it suspended, with the reason in the payload.
    """

    async def call(context: ToolContext, inputs: dict[str, Any]) -> Any:
        owner, thread = context.resource_id, context.thread_id
        asked = context.suspend_payload
        tell = context._tell
        on_event: OnWorkflowEvent | None = None if tell is None else (lambda event: tell(event.to_dict()))
        if asked is not None and owner is not None:
            try:
                result = await workflow.resume(
                    asked["run_id"],
                    context.resume_data,
                    resource=owner,
                    name=asked["name"],
                    on_event=on_event,
                )
            except ValidationError as error:
                context.suspend({**asked, "error": str(error)})
        elif owner is not None and workflow.memory is not None:
            # Not of the call's id: some providers count those anew in each step.
            run_id = f"{context.run_id[:200]}/{new_id()}"
            result = await workflow.run(
                resource=owner, thread=thread, run_id=run_id, on_event=on_event, **inputs
            )
        else:
            result = await workflow.run(on_event=on_event, **inputs)
        if result.status == "suspended":
            pause = result.pending[0]
            context.suspend(
                {
                    "run_id": result.run_id,
                    "name": pause.name,
                    "payload": pause.payload,
                    "schema": pause.schema,
                }
            )
        return result.output

    def validate(args: Any) -> tuple[list[Any], dict[str, Any]]:
        inputs = dict(args) if isinstance(args, dict) else args
        workflow.validate(inputs)
        return [dict(args)], {}

    return Tool(
        name=f"workflow-{workflow.name}",
        description=workflow.description,
        parameters=workflow.definition.parameters,
        function=call,
        takes_context=True,
        is_async=True,
        validate=validate,
    )
