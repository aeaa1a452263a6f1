"""Redacts or blocks what regular expressions find."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from .._errors import ConfigurationError
from .._types import Json, Message, Part, ReasoningPart, TextPart, ToolPart
from ._scan import Matcher, Scanner
from .base import OnViolation, OutputDelta, Processor, ProcessorContext
from .patterns import PATTERNS, Pattern
from .pipeline import with_text


class RegexFilter(Processor):
    """Finds `patterns` in text and thinking; in the input, in the answer, or in both, by where it is listed.

    Args:
        patterns: Names of `PATTERNS`, and `Pattern`s of your own.
        action: "redact" replaces what is found; "block" stops the run, naming the patterns, not the text.
        replacement: Instead of what is found; `{name}` is the pattern's name.
        tool_results: Look at the outcomes of tools, too.
        retry: With "block": have the model answer again.

    Redacting an answer that is streamed holds back as many characters as the longest pattern can take (257
    for the presets), not more; with a pattern without `max_length`, all of a step. The redacted text is the
    same however it is cut. Arguments that a model writes for a tool are left alone.

    Raises `ConfigurationError` for an unknown name or what is no regular expression.
    """

    def __init__(
        self,
        patterns: Sequence[str | Pattern],
        *,
        action: Literal["redact", "block"] = "redact",
        replacement: str = "[{name}]",
        tool_results: bool = False,
        retry: bool = False,
        on_violation: OnViolation | None = None,
    ) -> None:
        if action not in ("redact", "block"):
            raise ConfigurationError(f"action must be 'redact' or 'block', not {action!r}")
        if isinstance(patterns, str):
            raise ConfigurationError(f"patterns must be a sequence; write [{patterns!r}]")
        chosen = [_pattern(item) for item in patterns]
        if not chosen:
            raise ConfigurationError("give at least one pattern")
        self._matcher = Matcher.of(chosen)
        self._names = {pattern.name: replacement.replace("{name}", pattern.name) for pattern in chosen}
        self.action = action
        self.tool_results = tool_results
        self.retry = retry
        self.streams = action == "redact" and self._matcher.reach is not None
        self.on_violation = on_violation

    async def process_input(self, messages: Sequence[Message], ctx: ProcessorContext) -> Sequence[Message]:
        found: Counter[str] = Counter()
        out = [
            message.replace(parts=[self._part(part, found) for part in message.parts]) for message in messages
        ]
        self._found(found, ctx)
        return out

    async def process_output_stream(self, delta: OutputDelta, ctx: ProcessorContext) -> str:
        key = (ctx.step, ctx.retries, delta.part)
        scanner: Scanner | None = ctx.state.get(key)
        if scanner is None:
            scanner = ctx.state[key] = self._scanner()
        text = scanner.feed(delta.text, last=delta.last)
        if delta.last:
            del ctx.state[key]
        if delta.last or self.action == "block":
            self._found(scanner.found, ctx)
        return text

    async def process_tool_result(self, part: ToolPart, ctx: ProcessorContext) -> ToolPart | None:
        if not self.tool_results:
            return None
        import dataclasses

        found: Counter[str] = Counter()
        error = None if part.error is None else self._redact(part.error, found)
        out = dataclasses.replace(part, output=self._json(part.output, found), error=error)
        self._found(found, ctx)
        return out

    def _found(self, found: Counter[str], ctx: ProcessorContext) -> None:
        if not found:
            return
        metadata = {"found": dict(found)}
        if self.action == "block":
            ctx.abort(f"the text contains {', '.join(sorted(found))}", retry=self.retry, metadata=metadata)
        ctx.report("redacted", metadata=metadata)

    def _scanner(self) -> Scanner:
        return Scanner(self._matcher, self._names.__getitem__)

    def _redact(self, text: str, found: Counter[str]) -> str:
        scanner = self._scanner()
        out = scanner.feed(text, last=True)
        found.update(scanner.found)
        return out

    def _part(self, part: Part, found: Counter[str]) -> Part:
        if isinstance(part, (TextPart, ReasoningPart)):
            return with_text(part, self._redact(part.text, found))
        return part

    def _json(self, value: Json, found: Counter[str]) -> Json:
        if isinstance(value, str):
            return self._redact(value, found)
        if isinstance(value, dict):
            return {self._redact(key, found): self._json(item, found) for key, item in value.items()}
        if isinstance(value, list):
            return [self._json(item, found) for item in value]
        return value


class PIIRedactor(RegexFilter):
    """A `RegexFilter` of the presets that find personal data and secrets: all of them, or `kinds`."""

    name = "pii-redactor"

    def __init__(self, kinds: Sequence[str] = tuple(PATTERNS), **options: Any) -> None:
        super().__init__(kinds, **options)


def _pattern(item: str | Pattern) -> Pattern:
    if isinstance(item, Pattern):
        return item
    if item not in PATTERNS:
        raise ConfigurationError(f"there is no pattern {item!r}; there are {', '.join(PATTERNS)}")
    return PATTERNS[item]
