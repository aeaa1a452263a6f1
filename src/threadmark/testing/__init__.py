"""Test doubles and the store conformance kit: public, documented, used by Threadmark's own tests."""

from ._model import ScriptedModel, ToolCall, estimate_tokens

__all__ = ["ScriptedModel", "ToolCall", "estimate_tokens"]
