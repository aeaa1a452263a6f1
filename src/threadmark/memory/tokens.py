from .._types import FilePart, Message, ReasoningPart, TextPart, ToolPart


def estimate_tokens(text: str) -> int:
    if text.isascii():
        return -(-len(text) // 4)
    wide = sum(1 for character in text if ord(character) > 127)
    return -(-(len(text) - wide) // 4) + -(-wide // 2)


def message_tokens(message: Message) -> int:
    """About how many tokens a message is, its framing included."""
    total = 4
    for part in message.parts:
        if isinstance(part, (TextPart, ReasoningPart)):
            total += estimate_tokens(part.text)
        elif isinstance(part, ToolPart):
            total += estimate_tokens(f"{part.tool_name}{part.args}{part.output or part.error or ''}")
        elif isinstance(part, FilePart):
            total += 765
    return total
