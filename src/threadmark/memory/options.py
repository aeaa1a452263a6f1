"""What can be asked of memory, per instance and per call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypedDict

from .._errors import ConfigurationError
from .._ids import check_count

DEFAULT_LAST_MESSAGES = 10

# Names that users of other systems try, and ours.
_HINTS = {
    "resource_id": "resource",
    "resourceId": "resource",
    "thread_id": "thread",
    "threadId": "thread",
    "lastMessages": "last_messages",
    "readOnly": "read_only",
    "options": "the options themselves, as keyword arguments",
}


class MemoryOptions(TypedDict, total=False):
    """Options of `Memory(...)`, of `agent.generate(...)` and of `agent.stream(...)`.

    last_messages: How many of the thread's newest messages the model sees; default 10. `False` or 0: none are
        loaded, and none of the turn is stored. `None`: all.
    read_only: The turn reads memory and writes nothing, not even the thread; default false.
    save_user_first: Store the user's message before the model is called, and each finished step as it comes,
        so that they survive the death of the process; default false: the whole turn is one transaction, and
        a turn that dies or is stopped by a processor leaves nothing.
    """

    last_messages: int | bool | None
    read_only: bool
    save_user_first: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySettings:
    """Checked options. `last_messages=None` is all messages, 0 none."""

    last_messages: int | None = DEFAULT_LAST_MESSAGES
    read_only: bool = False
    save_user_first: bool = False

    def merge(self, options: Mapping[str, Any]) -> MemorySettings:
        """These settings with `options` over them. Raises `ConfigurationError` naming an unknown option."""
        if not options:
            return self
        known = {field.name for field in fields(self)}
        for name in options:
            if name not in known:
                hint = f"; did you mean {_HINTS[name]}?" if name in _HINTS else "."
                raise ConfigurationError(
                    f"unknown option {name!r}{hint} Options of memory are {', '.join(sorted(known))}."
                )
        checked = dict(options)
        if "last_messages" in checked:
            checked["last_messages"] = _last_messages(checked["last_messages"])
        for name in ("read_only", "save_user_first"):
            if name in checked and not isinstance(checked[name], bool):
                raise ConfigurationError(f"{name} must be True or False, not {checked[name]!r}")
        return replace(self, **checked)


def _last_messages(value: object) -> int | None:
    if value is None:
        return None
    if value is True:
        return DEFAULT_LAST_MESSAGES
    return 0 if value is False else check_count("last_messages", value)
