"""Keeps a prompt, or an answer, within a number of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from .._codec import to_json
from .._errors import ConfigurationError
from .._ids import check_count
from ..memory.tokens import estimate_tokens, message_tokens
from ..models.base import ModelRequest
from .base import OnViolation, OutputDelta, Processor, ProcessorContext

WORKING_MEMORY = "working-memory"
"""Id of the message in which a prompt shows working memory."""


class TokenLimiter(Processor):
    """At most `limit` tokens, as Threadmark estimates them.

    As an input processor it leaves out the oldest messages of what is sent, before each model call, until
    the rest fits: what stays is one piece, up to the newest. Instructions, tools, system messages, the
    current question and the answer so far always stay; if they alone are more than `limit`, the run is
    stopped. A call goes together with its outcome. Stored messages stay stored, and the result's `context`
    names what was left out. It moves with every turn; memory's `max_context_tokens` cuts less often, which
    keeps a provider's prefix cache warm.

    As an output processor it cuts the text of the answer (all steps together) at `limit`, or with
    `output="abort"` stops the run.
    """

    def __init__(
        self,
        limit: int,
        *,
        output: Literal["truncate", "abort"] = "truncate",
        on_violation: OnViolation | None = None,
    ) -> None:
        if output not in ("truncate", "abort"):
            raise ConfigurationError(f"output must be 'truncate' or 'abort', not {output!r}")
        self.limit = check_count("limit", limit, least=1)
        self.output = output
        self.streams = output == "truncate"
        self.on_violation = on_violation

    async def process_input_step(self, request: ModelRequest, ctx: ProcessorContext) -> ModelRequest | None:
        messages = request.messages
        first = ctx.current(messages)
        needed = estimate_tokens(request.instructions)
        needed += sum(
            estimate_tokens(f"{item.name}{item.description}{to_json(item.parameters)}")
            for item in request.tools
        )
        always = [index >= first or message.role == "system" for index, message in enumerate(messages)]
        sizes = [message_tokens(message) for message in messages]
        needed += sum(size for size, keep in zip(sizes, always, strict=True) if keep)
        # Working memory stands first and yet matters more than old messages.
        for index, message in enumerate(messages):
            if message.id == WORKING_MEMORY and not always[index] and needed + sizes[index] <= self.limit:
                always[index] = True
                needed += sizes[index]
        if needed > self.limit:
            ctx.abort(
                f"instructions and question alone are about {needed} tokens; the limit is {self.limit}",
                metadata={"tokens": needed, "limit": self.limit},
            )
        start = _oldest_that_fits(sizes, always, self.limit - needed)
        # Providers want a user's message first.
        while 0 < start < first and messages[start].role == "assistant":
            start += 1
        kept = [message for index, message in enumerate(messages) if index >= start or always[index]]
        return None if len(kept) == len(messages) else replace(request, messages=kept)

    async def process_output_stream(self, delta: OutputDelta, ctx: ProcessorContext) -> str | None:
        if delta.kind != "text":
            return None
        # A step that is answered again begins anew with what the steps before it left.
        key = (ctx.step, ctx.retries)
        if ctx.state.get("key") != key:
            if ctx.state.get("key", key)[0] != ctx.step:
                ctx.state["before"] = ctx.state.get("used", 0.0)
            ctx.state["key"] = key
            ctx.state["used"] = ctx.state.get("before", 0.0)
        used: float = ctx.state["used"]
        for index, character in enumerate(delta.text):
            used += 0.25 if character < "\x80" else 0.5
            if used > self.limit:
                ctx.state["used"] = float("inf")
                if self.output == "abort":
                    ctx.abort(
                        f"the answer is longer than {self.limit} tokens", metadata={"limit": self.limit}
                    )
                if used != float("inf"):
                    ctx.report("truncated", metadata={"limit": self.limit})
                return delta.text[:index]
        ctx.state["used"] = used
        return None


def _oldest_that_fits(sizes: Sequence[int], always: Sequence[bool], room: int) -> int:
    """The first of the messages that fit into `room` with all after them."""
    for index in range(len(sizes) - 1, -1, -1):
        if not always[index]:
            room -= sizes[index]
            if room < 0:
                return index + 1
    return 0
