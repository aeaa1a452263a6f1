"""Test doubles and the store conformance kit: public, documented, used by Threadmark's own tests."""

from ._clock import FakeClock
from ._faults import FaultyDriver, FaultyStore
from ._model import ScriptedModel, ToolCall, estimate_tokens

__all__ = ["FakeClock", "FaultyDriver", "FaultyStore", "ScriptedModel", "ToolCall", "estimate_tokens"]
