"""Answers a model call that was made before without making it again."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace

from .._codec import part_to_dict, to_json
from .._errors import ConfigurationError, ValidationError
from .._ids import check_count
from .._types import Message, StepPart, Usage
from ..models.base import ModelRequest, ModelResponse, ResponsePart
from ._values import own_part
from .base import Processor, ProcessorContext


class ResponseCache(Processor):
    """Keeps answers of model calls in memory, and gives them again for the same call of the same resource.

    List the same object last among the input processors, so that it sees the call as it is made, and last
    among the output processors, so that it keeps only what all others accepted. The same call means: the
    same agent, model, instructions, messages, tools and settings; it is per resource, so nobody is given
    what was said to another. An answer is kept when the run's whole answer was accepted. Processors run on a
    cached answer as on any other. Calls without memory name no resource: they count as one's own.

    Args:
        max_entries: Most answers kept; the one unused for longest goes first.
        ttl: Seconds an answer is kept; `None` is for ever.
        clock: Seconds that only grow; for tests.

    The tokens of a cached answer count as none. One cache may serve several agents, loops and threads.
    """

    streams = True

    def __init__(
        self,
        *,
        max_entries: int = 1000,
        ttl: float | None = 3600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if ttl is not None and (isinstance(ttl, bool) or not isinstance(ttl, (int, float)) or not ttl > 0):
            raise ConfigurationError(f"ttl must be a positive number of seconds, not {ttl!r}")
        self.max_entries = check_count("max_entries", max_entries, least=1)
        self.ttl = ttl
        self._clock = clock
        self._entries: OrderedDict[bytes, tuple[float, ModelResponse]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def clear(self) -> None:
        """Forget all answers."""
        with self._lock:
            self._entries.clear()

    async def process_input_step(self, request: ModelRequest, ctx: ProcessorContext) -> ModelResponse | None:
        key = cache_key(request, ctx)
        ctx.state["key"] = key
        if key is None:
            return None
        with self._lock:
            found = self._entries.get(key)
            if found is None:
                return None
            if self.ttl is not None and self._clock() - found[0] >= self.ttl:
                del self._entries[key]
                return None
            self._entries.move_to_end(key)
        ctx.state["key"] = None  # it is there already
        response = found[1]
        return replace(response, parts=tuple([own_part(part) for part in response.parts]))

    async def process_output_step(self, parts: Sequence[ResponsePart], ctx: ProcessorContext) -> None:
        key, response = ctx.state.get("key"), ctx.response
        if key is None or response is None or response.finish_reason in ("error", "length"):
            return
        ctx.state.setdefault("answers", {})[ctx.step] = (
            key,
            replace(response, parts=tuple(parts), usage=Usage()),
        )

    async def process_output_result(self, message: Message, ctx: ProcessorContext) -> None:
        with self._lock:
            for key, response in ctx.state.pop("answers", {}).values():
                self._entries[key] = (self._clock(), response)
                self._entries.move_to_end(key)
            while len(self._entries) > self.max_entries:
                self._entries.popitem(last=False)


def cache_key(request: ModelRequest, ctx: ProcessorContext) -> bytes | None:
    """What identifies a call; `None` for one that JSON cannot express. Ids and times are no part of it."""
    try:
        text = to_json(
            [
                ctx.resource_id,
                ctx.agent,
                ctx.model,
                request.instructions,
                [
                    [message.role, [part_to_dict(p) for p in message.parts if not isinstance(p, StepPart)]]
                    for message in request.messages
                ],
                [[item.name, item.description, dict(item.parameters)] for item in request.tools],
                dict(request.settings),
            ]
        )
    except ValidationError:
        return None
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=32).digest()
