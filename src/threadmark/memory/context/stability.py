"""Whether a prompt begins like the thread's last one: a fingerprint of all that is stable in it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from ..._types import FilePart, Message, StepPart, TextPart


def fingerprint(instructions: str, stable: Sequence[Message], before: str) -> tuple[str, int | None]:
    """The fingerprint of the stable part, and how many of its messages are the one `before`; `None`: it is
    not how this one begins.

    It is made of the texts themselves each time, a millisecond for a megabyte, so no change of a stored
    message can go unseen.
    """
    number, _, wanted = before.partition(":")
    count = int(number) if number.isdecimal() and len(number) < 10 else len(stable) + 1
    digest = hashlib.blake2b(_framed(instructions).encode("utf-8", "surrogatepass"), digest_size=12)
    same = None
    done = 0
    if count <= len(stable):
        digest.update(_bytes(stable[:count]))
        done = count
        same = count if digest.hexdigest() == wanted else None
    digest.update(_bytes(stable[done:]))
    return f"{len(stable)}:{digest.hexdigest()}", same


def _bytes(messages: Sequence[Message]) -> bytes:
    pieces: list[str] = []
    for message in messages:
        pieces.append(f"\n{message.role}{len(message.parts)}")
        for part in message.parts:
            kind = type(part)
            if kind is TextPart and part.provider is None:  # type: ignore[union-attr]
                pieces.append(_framed(part.text))  # type: ignore[union-attr]
            elif kind is StepPart:
                # Of a step, providers get back only what is theirs.
                pieces.append("s" if part.provider is None else f"s{_framed(repr(part.provider))}")  # type: ignore[union-attr]
            elif isinstance(part, FilePart) and part.data is not None:
                data = hashlib.blake2b(part.data, digest_size=16).hexdigest()
                pieces.append(f"f{data}{_framed(repr(replace(part, data=b'')))}")
            else:
                pieces.append(f"p{_framed(repr(part))}")
    return "".join(pieces).encode("utf-8", "surrogatepass")


def _framed(text: str) -> str:
    """`text` with its length, so that no text can pass for another followed by something."""
    return f"{len(text)}:{text}"
