"""Recall: what an owner's messages say about a question, for an agent's turn and for your own code.

`Recaller` is the one implementation of both. Ranking is in `threadmark.recall`, the index in the store.
"""

from .result import Recalled, RecalledObservation, RecallReason, RecallResult
from .settings import SemanticRecall

__all__ = ["RecallReason", "RecallResult", "Recalled", "RecalledObservation", "SemanticRecall"]
