"""What of a message belongs to its owner and not to the conversation: what working memory said in it."""

from __future__ import annotations

from ..._codec import from_json, to_json

CONTEXT_PART = "threadmark.context"
"""Name of the data part in which a user's message keeps what memory told the model along with it."""

MEMORY_TOOLS = frozenset({"update_working_memory"})
"""Tools of memory itself; their arguments are what the agent noted of the owner."""


def without_personal(parts: str) -> str | None:
    """Stored parts, as JSON text, as another owner may have them; `None` if that is as they are.

    What memory told the model goes, and so do the arguments of memory's own tools. A store applies it to
    every message that it gives or copies to another owner.
    """
    if CONTEXT_PART not in parts and not any(name in parts for name in MEMORY_TOOLS):
        return None
    kept = []
    for part in (before := from_json(parts)):
        if part.get("type") == "data" and part.get("name") == CONTEXT_PART:
            continue
        if part.get("type") == "tool" and part.get("tool_name") in MEMORY_TOOLS:
            part = {**part, "args": {}}
        kept.append(part)
    return None if kept == before else to_json(kept)
