"""Options of observational memory: defaults that users rely on, and values that make no sense."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from threadmark import ConfigurationError
from threadmark.memory.observe.extract import Extractor
from threadmark.memory.observe.hooks import ObservationHooks
from threadmark.memory.observe.settings import (
    ContinuationHints,
    ModelByInputTokens,
    ObservationalMemory,
    ObservationSettings,
    ReflectionSettings,
    Retrieval,
)
from threadmark.testing import ScriptedModel


def test_defaults() -> None:
    """30,000 and 40,000 tokens, background work every 6,000, 6,000 stay raw, waiting from 36,000 on."""
    settings = ObservationalMemory()
    assert settings.observation.message_tokens == 30_000
    assert settings.observation.buffer_interval == 6_000
    assert settings.observation.retention_floor == 6_000
    assert settings.observation.block_tokens == 36_000
    assert settings.reflection.observation_tokens == 40_000
    assert settings.reflection.buffer_from == 20_000
    assert settings.reflection.block_tokens == 48_000
    assert settings.observation.max_tokens_per_batch == 10_000
    assert settings.observation.previous_observer_tokens == 2_000
    assert settings.observation.observe_attachments == ("image/*", "application/pdf")
    assert settings.observation.model_settings == {"temperature": 0.3}
    assert settings.reflection.model_settings == {"temperature": 0.0}
    assert settings.observation.hints == ContinuationHints()
    assert (settings.scope, settings.on_failure, settings.timezone) == ("thread", "warn", "UTC")
    assert settings.observer_model is settings.reflector_model is None
    assert settings.recall is None
    assert settings.idle_after("observation", "openai:gpt-5") is None
    assert not settings.on_provider_change("reflection")


def test_numbers_and_fractions() -> None:
    """Fractions are of the threshold, numbers are tokens."""
    settings = ObservationSettings(message_tokens=1_000, buffer_tokens=0.5, block_after=2)
    assert (settings.buffer_interval, settings.block_tokens) == (500, 2_000)
    settings = ObservationSettings(message_tokens=9_000, buffer_tokens=50, block_after=10_000)
    assert (settings.buffer_interval, settings.block_tokens) == (50, 10_000)
    assert ObservationSettings(buffer_activation=1).retention_floor == 0
    assert ObservationSettings(buffer_activation=4_000).retention_floor == 4_000
    assert ObservationSettings(buffer_tokens=False).buffer_interval == 0


def test_mappings_are_settings() -> None:
    """A mapping of options does, and an unknown name in it is an error that lists what there is."""
    settings = ObservationalMemory(observation={"message_tokens": 500}, reflection={"observation_tokens": 9})  # type: ignore[arg-type]
    assert settings.observation == ObservationSettings(message_tokens=500)
    assert settings.reflection == ReflectionSettings(observation_tokens=9)
    with pytest.raises(ConfigurationError, match="unknown option 'messageTokens' of observation; there are"):
        ObservationalMemory(observation={"messageTokens": 500})  # type: ignore[arg-type]


def test_roles_borrow_models() -> None:
    """One model serves both roles; a role without one takes the other's."""
    one, two = ScriptedModel([]), ScriptedModel([])
    both = ObservationalMemory(model=one)
    assert both.observer_model is both.reflector_model is one
    lent = ObservationalMemory(observation=ObservationSettings(model=one))
    assert lent.reflector_model is one
    own = ObservationalMemory(
        observation=ObservationSettings(model=one), reflection=ReflectionSettings(model=two)
    )
    assert (own.observer_model, own.reflector_model) == (one, two)
    with pytest.raises(ConfigurationError, match="not both"):
        ObservationalMemory(model=one, reflection=ReflectionSettings(model=two))


def test_models_by_size_of_input() -> None:
    """Bounds include themselves, and an input above all of them goes to the greatest."""
    tiers = ModelByInputTokens({30_000: "b:large", 1_000: "a:small"})
    chosen = [tiers.choose(tokens) for tokens in (1, 1_000, 1_001, 30_000, 900_000)]
    assert chosen == ["a:small", "a:small", "b:large", "b:large", "b:large"]


@pytest.mark.parametrize(
    ("value", "model", "expected"),
    [
        (90, None, 90),
        (timedelta(minutes=2), None, 120),
        ("5m", None, 300),
        ("1.5h", None, 5400),
        ("250ms", None, 0.25),
        ("auto", None, 300),
        ("auto", "anthropic:claude-sonnet-4-5", 300),
        ("auto", "deepseek/deepseek-chat", 3600),
        ("auto", "groq:llama", 7200),
        ("auto", "google-gla:gemini-2.5-flash", 86400),
        ("auto", "openai:gpt-4o", 300),
        ("auto", "openai:gpt-5.4-mini", 300),
        ("auto", "openai:gpt-5.5", 3600),
    ],
)
def test_idle_times(value: Any, model: str | None, expected: float) -> None:
    """Seconds, timedeltas, texts, or as long as the provider keeps a prompt."""
    assert ObservationalMemory(activate_after_idle=value).idle_after("observation", model) == expected


def test_each_role_may_differ() -> None:
    """A role's own value counts before the common one, also when it turns it off."""
    settings = ObservationalMemory(
        activate_after_idle="5m",
        activate_on_provider_change=True,
        reflection=ReflectionSettings(activate_after_idle=False, activate_on_provider_change=False),
    )
    assert settings.idle_after("observation", None) == 300
    assert settings.idle_after("reflection", None) is None
    assert settings.on_provider_change("observation")
    assert not settings.on_provider_change("reflection")


def test_a_shared_budget() -> None:
    """What the log leaves free is for messages, and never less than their own part."""
    with pytest.raises(ConfigurationError, match="buffer_tokens=False"):
        ObservationalMemory(share_token_budget=True)
    settings = ObservationalMemory(
        share_token_budget=True, observation=ObservationSettings(buffer_tokens=False)
    )
    assert [settings.message_threshold(used) for used in (0, 10_000, 90_000)] == [70_000, 60_000, 30_000]
    assert ObservationalMemory().message_threshold(0) == 30_000


BAD: list[tuple[type, dict[str, Any]]] = [
    (ObservationSettings, {"message_tokens": 0}),
    (ObservationSettings, {"message_tokens": True}),
    (ObservationSettings, {"buffer_tokens": 30_000}),
    (ObservationSettings, {"buffer_tokens": 0}),
    (ObservationSettings, {"buffer_tokens": float("nan")}),
    (ObservationSettings, {"buffer_tokens": True}),
    (ObservationSettings, {"buffer_activation": 0}),
    (ObservationSettings, {"buffer_activation": 500}),
    (ObservationSettings, {"buffer_activation": 1.5}),
    (ObservationSettings, {"block_after": 0.5}),
    (ObservationSettings, {"block_after": float("inf")}),
    (ObservationSettings, {"max_tokens_per_batch": 5}),
    (ObservationSettings, {"previous_observer_tokens": -1}),
    (ObservationSettings, {"buffer_on_idle": 1}),
    (ObservationSettings, {"instruction": None}),
    (ObservationSettings, {"continuation_hints": "yes"}),
    (ObservationSettings, {"observe_attachments": "pdf"}),
    (ObservationSettings, {"observe_attachments": ()}),
    (ObservationSettings, {"activate_after_idle": "soon"}),
    (ObservationSettings, {"activate_after_idle": -1}),
    (ObservationSettings, {"model_settings": 5}),
    (ObservationSettings, {"extract": ["x"]}),
    (ReflectionSettings, {"observation_tokens": -5}),
    (ReflectionSettings, {"buffer_activation": 2_000}),
    (ReflectionSettings, {"block_after": 0}),
    (ObservationalMemory, {"scope": "user"}),
    (ObservationalMemory, {"timezone": "Mars/Olympus"}),
    (ObservationalMemory, {"timezone": "../etc/passwd"}),
    (ObservationalMemory, {"on_failure": "ignore"}),
    (ObservationalMemory, {"deadline": -1}),
    (ObservationalMemory, {"deadline": float("nan")}),
    (ObservationalMemory, {"max_failures": 0}),
    (ObservationalMemory, {"retrieval": "thread"}),
    (ObservationalMemory, {"temporal_markers": None}),
    (ObservationalMemory, {"redact": "x"}),
    (ObservationalMemory, {"observation": 5}),
    (ObservationalMemory, {"hooks": {"on_observation_start": 5}}),
    (Retrieval, {"scope": "all"}),
    (ContinuationHints, {"current_task": 1}),
    (ModelByInputTokens, {"up_to": {}}),
    (ModelByInputTokens, {"up_to": {0: "a:b"}}),
    (Extractor, {"name": "!!", "instructions": ""}),
    (Extractor, {"name": "Current task", "instructions": ""}),
]


@pytest.mark.parametrize(("kind", "options"), BAD, ids=lambda value: str(value)[:60])
def test_values_that_make_no_sense(kind: type, options: dict[str, Any]) -> None:
    """Each is an error when the settings are made, never a silent default."""
    with pytest.raises(ConfigurationError):
        kind(**options)


def test_an_unknown_option() -> None:
    """A name that does not exist is an error."""
    with pytest.raises(TypeError, match="lastMessages"):
        ObservationalMemory(lastMessages=5)  # type: ignore[call-arg]


def test_hooks_by_name() -> None:
    """A mapping of hooks is accepted."""
    hook = print
    settings = ObservationalMemory(hooks={"on_observation_end": hook})  # type: ignore[arg-type]
    assert settings.hooks == ObservationHooks(on_observation_end=hook)
