"""Processors: what sees, changes or stops what goes to a model and what comes back.

    from threadmark.processors import PIIRedactor, PromptInjectionCheck, TokenLimiter

    agent = Agent(
        "support",
        model="openai:gpt-5.4-mini",
        memory=memory,
        input_processors=[PIIRedactor(), PromptInjectionCheck("openai:gpt-5.4-nano"), TokenLimiter(8000)],
        output_processors=[PIIRedactor()],
    )

Write your own with `Processor`, or list a plain function. Names are loaded when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .base import OutputDelta, Processor, ProcessorContext, Retry, Tripwire, Violation
    from .memory import MessageHistory, SemanticRecallProcessor, WorkingMemoryProcessor
    from .moderation import Moderation
    from .patterns import PATTERNS, Pattern
    from .prompt_injection import PromptInjectionCheck
    from .regex_filter import PIIRedactor, RegexFilter
    from .response_cache import ResponseCache
    from .system_prompt import SystemPromptScrubber
    from .token_limiter import TokenLimiter
    from .tool_call_filter import ToolCallFilter
    from .unicode_normalizer import UnicodeNormalizer

_HOMES = {
    "base": ("OutputDelta", "Processor", "ProcessorContext", "Retry", "Tripwire", "Violation"),
    "memory": ("MessageHistory", "SemanticRecallProcessor", "WorkingMemoryProcessor"),
    "moderation": ("Moderation",),
    "patterns": ("PATTERNS", "Pattern"),
    "prompt_injection": ("PromptInjectionCheck",),
    "regex_filter": ("PIIRedactor", "RegexFilter"),
    "response_cache": ("ResponseCache",),
    "system_prompt": ("SystemPromptScrubber",),
    "token_limiter": ("TokenLimiter",),
    "tool_call_filter": ("ToolCallFilter",),
    "unicode_normalizer": ("UnicodeNormalizer",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


__all__ = [
    "MessageHistory",
    "Moderation",
    "OutputDelta",
    "PATTERNS",
    "PIIRedactor",
    "Pattern",
    "Processor",
    "ProcessorContext",
    "PromptInjectionCheck",
    "RegexFilter",
    "ResponseCache",
    "Retry",
    "SemanticRecallProcessor",
    "SystemPromptScrubber",
    "TokenLimiter",
    "ToolCallFilter",
    "Tripwire",
    "UnicodeNormalizer",
    "Violation",
    "WorkingMemoryProcessor",
]
