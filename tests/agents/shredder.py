"""Something destructive that waits for a person, for agents and their sub-agents."""

from __future__ import annotations

from threadmark import ToolContext, tool


class Shredder:
    """A tool that needs approval, one that suspends, and what they did."""

    def __init__(self) -> None:
        self.done: list[tuple[str, str | None]] = []

        @tool(requires_approval=True)
        def shred(context: ToolContext, what: str) -> str:
            self.done.append((what, context.approved_by))
            return f"shredded {what}"

        @tool(resume_schema=int)
        def count(context: ToolContext) -> int:
            if context.resume_data is None:
                context.suspend("how many?")
            return int(context.resume_data)

        self.tool = shred
        self.tools = [shred, count]
