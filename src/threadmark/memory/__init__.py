"""What is remembered, and how it reaches the model."""

from .memory import Memory

__all__ = ["Memory"]
