"""Memory's own layers, listed among an agent's processors.

An agent with a memory has these layers anyway, before all processors. Listing one configures the automatic
layer, it does not add a second; its place in the list means nothing. An option of the call wins over it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..memory.options import MemorySettings
from .base import Processor

if TYPE_CHECKING:
    from ..memory.recall import SemanticRecall
    from ..memory.working import WorkingMemory


class MemoryLayer(Processor):
    """A layer of memory with its options; see `MemoryOptions`."""

    def __init__(self, **options: Any) -> None:
        MemorySettings().merge(options)
        self.memory_options = options


class MessageHistory(MemoryLayer):
    """The thread's newest messages, `last_messages` of them at least; `None` is all.

    Raises `ConfigurationError` or `ValidationError` for what is no number of messages.
    """

    def __init__(self, last_messages: int | bool | None = 10) -> None:
        super().__init__(last_messages=last_messages)


class WorkingMemoryProcessor(MemoryLayer):
    """Working memory, with `WorkingMemory(...)` settings or the default ones."""

    name = "working-memory"

    def __init__(self, settings: WorkingMemory | bool = True) -> None:
        super().__init__(working_memory=settings)


class SemanticRecallProcessor(MemoryLayer):
    """Recall, with `SemanticRecall(...)` settings or the default ones."""

    name = "semantic-recall"

    def __init__(self, settings: SemanticRecall | bool = True) -> None:
        super().__init__(semantic_recall=settings)
