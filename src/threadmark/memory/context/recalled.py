"""The layer of recall in a prompt: how much room it gets, and its message."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from ..._types import Message, TextPart

if TYPE_CHECKING:
    from ..recall.render import RecalledBlock
    from ..recall.result import RecallResult
    from ..recall.turn import TurnRecall

RECALL_SHARE = 0.4
"""Most of what working memory leaves of the budget that recall may keep from history."""


def reserved(recall: TurnRecall | None, room: int) -> int:
    """How much of the room is kept for what was recalled: what it may take, but not most of it."""
    if recall is None or recall.result is None or not _found(recall.result):
        return 0
    return min(recall.settings.max_tokens, int(room * RECALL_SHARE))


def _found(result: RecallResult) -> bool:
    return bool(result.hits or result.observations)


def recalled_blocks(
    recall: TurnRecall | None,
    shown: Collection[str],
    room: int | None,
    count: Callable[[str], int],
    noted: Collection[str] = (),
) -> list[RecalledBlock]:
    """What the prompt holds of what was recalled, beside the messages `shown` and the observations `noted`.

    `room=None` is room enough.
    """
    if recall is None or recall.result is None or not _found(recall.result):
        return []
    from ..recall.render import choose

    return choose(recall, shown, recall.settings.max_tokens if room is None else room, count, noted)


def recalled_message(blocks: Sequence[RecalledBlock]) -> tuple[Message, ...]:
    """The message that holds the blocks, if there are any."""
    if not blocks:
        return ()
    from ..recall.render import fence

    return (Message(role="user", id="recalled", parts=[TextPart(fence(blocks))]),)
