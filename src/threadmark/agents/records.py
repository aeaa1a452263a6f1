"""What of a call is stored with a paused run, and the call that goes on with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from .._errors import ValidationError
from .._ids import check_metadata
from .._tracing import current_traceparent
from .._types import Json, Run, Speaker
from ..memory.options import MemorySettings
from ..memory.thread_spec import ThreadSpec
from .completion import CompletionChecks
from .hooks import check_hooks
from .limits import UsageLimits, check_limits
from .options import Call, TurnSource, check_processors, check_rule, check_seconds
from .output import Output
from .request_context import RequestContext
from .tracing import TRACE

_KEPT = ("system", "settings", "max_steps", "max_processor_retries", "pause_ttl", "step_timeout")
_KINDS: Any = ("input", "output", "error")


def record_of(call: Call) -> dict[str, Json]:
    """The choices and context of a call, as far as JSON can hold them.

    Messages given as `context` are for one call only and are never stored. A function that decides about
    approval becomes "always": it is not there later.
    """
    options: dict[str, Json] = {"depth": call.depth} if call.depth else {}
    options |= {name: value for name in _KEPT if (value := getattr(call, name)) not in (None, "", {})}
    for name in ("instructions", "model"):
        if isinstance(value := getattr(call, name), str):
            options[name] = value
    if call.require_tool_approval is not None:
        options["require_tool_approval"] = bool(call.require_tool_approval)
    if call.usage_limits is not None:
        options["usage_limits"] = call.usage_limits.to_dict()
    if call.output is not None:
        options["output"] = call.output.to_json()
    if memory := _json_of({name: _plain(value) for name, value in call.memory.items()}):
        options["memory"] = memory
    record: dict[str, Json] = {"call": options} if options else {}
    if origin := current_traceparent():
        record[TRACE] = origin
    context = call.request_context
    if entries := _json_of({name: context[name] for name in context}):
        record["context"] = entries
    if context.speaker is not None:
        speaker = context.speaker
        record["speaker"] = {"id": speaker.id, "name": speaker.name, "role": speaker.role}
    return record


def is_network(run: Run) -> bool:
    """Whether a paused run is that of a network."""
    return "network" in (run.state or {})


def restored_context(run: Run, owner: str, given: RequestContext | None) -> RequestContext:
    """The request context of a paused run. Entries that could not be stored are taken from `given`."""
    record = run.state or {}
    speaker = record.get("speaker")
    missing = {} if given is None else {name: given[name] for name in given}
    return RequestContext(
        resource=owner,
        thread=run.thread_id,
        speaker=None if speaker is None else Speaker(**speaker),
        **{**missing, **record.get("context", {})},
    )


def restored_call(
    run: Run, owner: str, context: RequestContext, source: TurnSource, options: Mapping[str, Any]
) -> Call:
    """The call that goes on with `run`; `options` are those of whoever decided."""
    kept = (run.state or {}).get("call", {})
    memory = _settings_of(kept.get("memory", {}), source)
    MemorySettings().merge(memory)
    given = options.get
    output = given("output")
    if output is None and kept.get("output") is not None:
        output = Output.from_json(kept["output"])
    limits = None if "usage_limits" not in kept else UsageLimits(**kept["usage_limits"])
    step_timeout = given("step_timeout") or kept.get("step_timeout")
    rule = check_rule(given("require_tool_approval"))
    return Call(
        input=[],
        resource=owner,
        thread=ThreadSpec(id=run.thread_id),
        context=list(given("context") or ()),
        request_context=context,
        instructions=kept.get("instructions"),
        system=kept.get("system", ""),
        model=given("model") or kept.get("model"),
        settings=kept.get("settings", {}),
        max_steps=kept.get("max_steps"),
        output=None if output is None else Output.of(output),
        timeout=check_seconds("timeout", given("timeout")),
        step_timeout=check_seconds("step_timeout", step_timeout),
        run_id=run.id,
        may_repeat=False,
        memory=memory,
        processors={
            kind: check_processors(chosen, kind)
            for kind in _KINDS
            if (chosen := given(f"{kind}_processors")) is not None
        },
        max_processor_retries=kept.get("max_processor_retries"),
        require_tool_approval=kept.get("require_tool_approval") if rule is None else rule,
        pause_ttl=kept.get("pause_ttl"),
        depth=kept.get("depth", 0),
        hooks=check_hooks(given("hooks")),
        completion=CompletionChecks.of(given("completion")),
        usage_limits=check_limits(given("usage_limits")) or limits,
        spending=given("spending"),
        paused=run,
        source=source,
    )


def _plain(value: Any) -> Any:
    """An option of memory; of settings (`WorkingMemory(...)`) those fields that JSON can hold."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    return {"settings": _json_of({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})}


def _settings_of(kept: Mapping[str, Any], source: TurnSource) -> dict[str, Any]:
    """Options of memory as they were. Fields that could not be stored are those of the memory itself."""
    own = MemorySettings().merge({name: True for name, value in kept.items() if isinstance(value, Mapping)})
    base = getattr(source, "settings", own)
    options = dict(kept)
    for name, value in kept.items():
        if isinstance(value, Mapping):
            default = getattr(base, name, None) or getattr(own, name)
            known = {field.name for field in dataclasses.fields(default)}
            changed = {key: item for key, item in value["settings"].items() if key in known}
            options[name] = dataclasses.replace(default, **changed)
    return options


def _json_of(values: Mapping[str, Any]) -> dict[str, Json]:
    """Those of `values` that JSON can hold."""
    kept: dict[str, Json] = {}
    for name, value in values.items():
        try:
            kept.update(check_metadata({name: value}))
        except ValidationError:
            continue
    return kept
