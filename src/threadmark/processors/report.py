"""What processors did to a prompt, in the report on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..memory.context import ContextReport
from ..memory.tokens import message_tokens
from ..models.base import ModelRequest
from .base import WORKING_MEMORY_ID


def explain(
    report: ContextReport, before: ModelRequest, after: ModelRequest, changed_by: Sequence[str]
) -> ContextReport:
    """`report` of the prompt that was sent: without the messages that processors left out."""
    kept = {message.id for message in after.messages}
    gone = {
        message.id: int(message_tokens(message) * report.scale)
        for message in before.messages
        if message.id not in kept
    }
    blocks = []
    for block in report.blocks:
        if block.kind == "working_memory" and WORKING_MEMORY_ID in gone:
            continue
        left_out = [source for source in block.sources if source in gone]
        if left_out:
            tokens = max(0, block.tokens - sum(gone[source] for source in left_out))
            sources = tuple([source for source in block.sources if source not in gone])
            block = replace(block, tokens=tokens, sources=sources)
        blocks.append(block)
    shown = {source for block in report.blocks for source in block.sources}
    return replace(
        report,
        blocks=tuple(block for block in blocks if block.sources or block.text),
        dropped=(*report.dropped, *[source for source in gone if source in shown]),
        breaks=(*report.breaks, f"processors changed the prompt: {', '.join(changed_by)}"),
    )
