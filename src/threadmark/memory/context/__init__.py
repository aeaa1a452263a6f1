"""What the model sees: rendering, ordering, budget, and the report on it."""

from .build import Layers, build_prompt
from .report import Block, BlockKind, ContextReport, Prompt

__all__ = ["Block", "BlockKind", "ContextReport", "Layers", "Prompt", "build_prompt"]
