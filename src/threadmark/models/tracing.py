"""The span of one model call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .._tracing import NO_SPAN, Span, is_tracing, span, usage_attributes
from .._types import FilePart, Json, Message, Part, ReasoningPart, TextPart, ToolPart
from .base import Model, ModelRequest, ModelResponse

_SETTINGS = (
    "temperature",
    "max_tokens",
    "top_p",
    "top_k",
    "presence_penalty",
    "frequency_penalty",
    "seed",
)
_PROVIDERS = {
    "google": "gcp.gemini",
    "google-gla": "gcp.gemini",
    "google-vertex": "gcp.vertex_ai",
    "azure": "azure.ai.openai",
    "bedrock": "aws.bedrock",
    "mistral": "mistral_ai",
    "grok": "x_ai",
    "xai": "x_ai",
    "openai-chat": "openai",
    "openai-responses": "openai",
}
"""How the conventions call providers, where that is not as we do."""


class Chat:
    """A model call in a span, for the time of a `with` block. `answered` adds what came of it."""

    __slots__ = ("span",)

    def __init__(self, span: Span) -> None:
        self.span = span

    def answered(self, response: ModelResponse) -> ModelResponse:
        """Add what the model answered, and give it back."""
        if self.span.is_recording:
            self.span.set(
                {
                    "gen_ai.response.model": response.model,
                    "gen_ai.response.finish_reasons": [response.finish_reason or "stop"],
                    "threadmark.response.tool_calls": sum(isinstance(p, ToolPart) for p in response.parts)
                    or None,
                    **usage_attributes(response.usage),
                }
            )
            self.span.content("gen_ai.output.messages", lambda: [_answer(response)])
            if response.finish_reason == "error":
                self.span.fail("error")
        return response

    def __enter__(self) -> Chat:
        self.span.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.span.__exit__(*error)


_NO_CHAT = Chat(NO_SPAN)


def chat(model: Model, request: ModelRequest, *, stream: bool = False, **attributes: Any) -> Chat:
    """The span "chat <model>" of a call of `model`; more `attributes` are ours, without "threadmark."."""
    if model.delegates or not is_tracing():
        return _NO_CHAT
    provider, _, name = model.name.partition(":")
    made = span(
        f"chat {name or provider}",
        {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": _PROVIDERS.get(provider, provider),
            "gen_ai.request.model": name or provider,
            "gen_ai.request.stream": stream or None,
            "gen_ai.output.type": None if request.output is None else "json",
            **{f"gen_ai.request.{name}": _number(request.settings, name) for name in _SETTINGS},
            **{f"threadmark.{key}": value for key, value in attributes.items()},
        },
        kind="client",
    )
    return _Asked(made, request)


class _Asked(Chat):
    __slots__ = ("_request",)

    def __init__(self, span: Span, request: ModelRequest) -> None:
        super().__init__(span)
        self._request = request

    def __enter__(self) -> Chat:
        super().__enter__()
        request = self._request
        self.span.content("gen_ai.input.messages", lambda: messages_json(request.messages))
        if request.instructions:
            self.span.content(
                "gen_ai.system_instructions", lambda: [{"type": "text", "content": request.instructions}]
            )
        return self


def _number(settings: Mapping[str, Json], name: str) -> float | int | None:
    value = settings.get(name)
    return value if isinstance(value, (int, float)) else None


# -- what was said -----------------------------------------------------------------------------------


def messages_json(messages: Sequence[Message]) -> list[Json]:
    """Messages in the conventions' form: the outcomes of a turn's tools are messages of their own."""
    out: list[Json] = []
    for message in messages:
        parts = [made for part in message.parts if (made := _part(part)) is not None]
        if parts:
            out.append({"role": message.role, "parts": parts})
        outcomes: list[Json] = [
            {"type": "tool_call_response", "id": part.tool_call_id, "response": part.error or part.output}
            for part in message.parts
            if isinstance(part, ToolPart) and part.state != "call"
        ]
        if outcomes:
            out.append({"role": "tool", "parts": outcomes})
    return out


def _answer(response: ModelResponse) -> Json:
    parts = [made for part in response.parts if (made := _part(part)) is not None]
    return {"role": "assistant", "parts": parts, "finish_reason": response.finish_reason or "stop"}


def _part(part: Part) -> Json:
    if isinstance(part, TextPart):
        return {"type": "text", "content": part.text}
    if isinstance(part, ReasoningPart):
        return {"type": "reasoning", "content": part.text}
    if isinstance(part, ToolPart):
        return {"type": "tool_call", "id": part.tool_call_id, "name": part.tool_name, "arguments": part.args}
    if isinstance(part, FilePart):  # not the file itself: a span is no place for it
        url = None if part.url is None or part.url.startswith("data:") else part.url
        return {"type": "file", "mime_type": part.media_type, "name": part.name, "uri": url}
    return None
