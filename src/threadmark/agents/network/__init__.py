"""Networks: a routing agent that chooses, step by step, which agent, workflow or tool works on a task."""

from ..completion import Check, CheckInput, CheckResult
from .events import NetworkEvent
from .network import NetworkOptions, NetworkResult
from .stream import NetworkStream, SyncNetworkStream

__all__ = [
    "Check",
    "CheckInput",
    "CheckResult",
    "NetworkEvent",
    "NetworkOptions",
    "NetworkResult",
    "NetworkStream",
    "SyncNetworkStream",
]
