"""What can be asked of memory, per instance and per call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypedDict

from .._errors import ConfigurationError
from .._ids import check_count

if TYPE_CHECKING:
    from .observe.settings import ObservationalMemory
    from .recall import SemanticRecall
    from .titles import GenerateTitle
    from .working import WorkingMemory

DEFAULT_LAST_MESSAGES = 10

# Names that users of other systems try, and ours.
_HINTS = {
    "resource_id": "resource",
    "resourceId": "resource",
    "thread_id": "thread",
    "threadId": "thread",
    "lastMessages": "last_messages",
    "readOnly": "read_only",
    "workingMemory": "working_memory",
    "generateTitle": "generate_title",
    "semanticRecall": "semantic_recall",
    "embedderOptions": "embedder=ProviderEmbedder(name, settings=...)",
    "options": "the options themselves, as keyword arguments",
}


class MemoryOptions(TypedDict, total=False):
    """Options of `Memory(...)`, of `agent.generate(...)` and of `agent.stream(...)`.

    last_messages: How many of the thread's newest messages the model sees at least; default 10. `False` or
        0: none are loaded, and none of the turn is stored. `None`: all.
    exact: Show exactly `last_messages`, the window moving with every turn; default false. Otherwise the
        window stands still while it grows and then moves in one step, so that prompts begin the same and
        the provider's prefix cache holds.
    history_slack: How far the window may grow beyond `last_messages` before it moves; default 8 times
        `last_messages`, at least 40. Not used with `exact`.
    max_context_tokens: Most tokens (estimated) of the whole prompt; default none. Working memory may take
        three tenths, history gets what is left and loses its oldest messages first. Instructions and the
        new message are never dropped. The result's `context` names what was.
    working_memory: `True`, or `WorkingMemory(...)` with its settings; default false.
    semantic_recall: `True`, or `SemanticRecall(...)` with its settings: what the owner's messages say about
        the question comes along with it, and the agent can search; default false.
    generate_title: `True`, or `GenerateTitle(...)` with its settings: an untitled thread is named by a model,
        in the background, after a turn that finished; default false. A title that somebody set stays.
    observational_memory: `True`, or `ObservationalMemory(...)` with its settings: a log of notes, made by a
        model in the background, takes the place of old messages; default false. The model then sees all
        messages that the log does not cover, and `last_messages` is not used (but for 0).
    read_only: The turn reads memory and writes nothing, not even the thread; default false.
    save_user_first: Store the user's message before the model is called, and each finished step as it comes,
        so that they survive the death of the process; default false: the whole turn is one transaction, and
        a turn that dies or is stopped by a processor leaves nothing.
    """

    last_messages: int | bool | None
    exact: bool
    history_slack: int | None
    max_context_tokens: int | None
    working_memory: bool | WorkingMemory
    semantic_recall: bool | SemanticRecall
    generate_title: bool | GenerateTitle
    observational_memory: bool | ObservationalMemory
    read_only: bool
    save_user_first: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySettings:
    """Checked options. `last_messages=None` is all messages, 0 none; `working_memory=None` is off."""

    last_messages: int | None = DEFAULT_LAST_MESSAGES
    exact: bool = False
    history_slack: int | None = None
    max_context_tokens: int | None = None
    working_memory: WorkingMemory | None = None
    semantic_recall: SemanticRecall | None = None
    generate_title: GenerateTitle | None = None
    observational_memory: ObservationalMemory | None = None
    read_only: bool = False
    save_user_first: bool = False

    @property
    def writes(self) -> bool:
        """Whether a turn stores anything."""
        return not self.read_only and self.last_messages != 0

    @property
    def slack(self) -> int:
        """How far the window of history may grow beyond `last_messages`."""
        if self.exact or not self.last_messages:
            return 0
        return max(40, 8 * self.last_messages) if self.history_slack is None else self.history_slack

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
        for name, least in (("history_slack", 0), ("max_context_tokens", 1)):
            if checked.get(name) is not None:
                check_count(name, checked[name], least=least)
        for name in ("read_only", "save_user_first", "exact"):
            if name in checked and not isinstance(checked[name], bool):
                raise ConfigurationError(f"{name} must be True or False, not {checked[name]!r}")
        if "working_memory" in checked:
            checked["working_memory"] = self._working_memory(checked["working_memory"])
        if "semantic_recall" in checked:
            checked["semantic_recall"] = self._semantic_recall(checked["semantic_recall"])
        if "generate_title" in checked:
            checked["generate_title"] = self._generate_title(checked["generate_title"])
        if "observational_memory" in checked:
            checked["observational_memory"] = self._observational(checked["observational_memory"])
        merged = replace(self, **checked)
        observing = merged.observational_memory if "observational_memory" in checked else None
        if (
            observing is not None
            and observing.observation.manage_working_memory
            and (merged.working_memory is None or merged.working_memory.read_only)
        ):
            raise ConfigurationError(
                "observation.manage_working_memory needs working_memory that is on and not read_only"
            )
        return merged

    def _working_memory(self, value: object) -> WorkingMemory | None:
        from .working import WorkingMemory

        if value is False or value is None:
            return None
        if value is True:
            return self.working_memory or WorkingMemory()
        if isinstance(value, WorkingMemory):
            return value
        raise ConfigurationError(
            f"working_memory must be True, False or WorkingMemory(...), not {type(value).__name__}"
        )

    def _semantic_recall(self, value: object) -> SemanticRecall | None:
        from .recall import SemanticRecall

        if value is False or value is None:
            return None
        if value is True:
            return self.semantic_recall or SemanticRecall()
        if isinstance(value, SemanticRecall):
            return value
        raise ConfigurationError(
            f"semantic_recall must be True, False or SemanticRecall(...), not {type(value).__name__}"
        )

    def _observational(self, value: object) -> ObservationalMemory | None:
        from .observe.settings import ObservationalMemory

        if value is False or value is None:
            return None
        if value is True:
            return self.observational_memory or ObservationalMemory()
        if isinstance(value, ObservationalMemory):
            return value
        raise ConfigurationError(
            f"observational_memory must be True, False or ObservationalMemory(...), "
            f"not {type(value).__name__}"
        )

    def _generate_title(self, value: object) -> GenerateTitle | None:
        from .titles import GenerateTitle

        if value is False or value is None:
            return None
        if value is True:
            return self.generate_title or GenerateTitle()
        if isinstance(value, GenerateTitle):
            return value
        raise ConfigurationError(
            f"generate_title must be True, False or GenerateTitle(...), not {type(value).__name__}"
        )


def _last_messages(value: object) -> int | None:
    if value is None:
        return None
    if value is True:
        return DEFAULT_LAST_MESSAGES
    return 0 if value is False else check_count("last_messages", value)
