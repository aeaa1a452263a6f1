"""Working memory: the few facts about a resource, or a thread, that the model always sees."""

from .handle import WorkingMemoryHandle
from .settings import DEFAULT_TEMPLATE, WorkingMemory

__all__ = ["DEFAULT_TEMPLATE", "WorkingMemory", "WorkingMemoryHandle"]
