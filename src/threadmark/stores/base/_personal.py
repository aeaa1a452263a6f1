"""What of a message is not given away with it: what working memory said in it, and calls that are open."""

from __future__ import annotations

from typing import Any

from ..._codec import from_json, to_json

CONTEXT_PART = "threadmark.context"
"""Name of the data part in which a user's message keeps what memory told the model along with it."""

MEMORY_TOOLS = frozenset({"update_working_memory"})
"""Tools of memory itself; their arguments are what the agent noted of the owner."""

COPIED = (
    "The call was open in the conversation that this one was copied from. Here it has no outcome, and "
    "nothing waits for it."
)
"""What a copied call says that had no outcome: the run that it belongs to was not copied."""


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


def without_open_calls(parts: str) -> str | None:
    """Stored parts, as JSON text, as a copy has them; `None` if that is as they are.

    A call without outcome is interrupted in the copy: a run that waits, or is under way, stays with its own
    thread, so nobody could ever settle the call here. A store applies it to every message that it copies.
    """
    if '"call"' not in parts:
        return None
    before = from_json(parts)
    kept = [_closed(part) if _is_open(part) else part for part in before]
    return None if kept == before else to_json(kept)


def _is_open(part: dict[str, Any]) -> bool:
    return part.get("type") == "tool" and part.get("state") == "call" and not part.get("provider_executed")


def _closed(part: dict[str, Any]) -> dict[str, Any]:
    known = {name: value for name, value in part.items() if name != "pause"}
    return {**known, "state": "interrupted", "error": COPIED}
