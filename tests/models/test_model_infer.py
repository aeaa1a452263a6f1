"""Which model a name means, and what the error says when it means none."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from threadmark import ConfigurationError, Message
from threadmark.models import Model, ModelRequest, infer_model
from threadmark.models._infer import split_name
from threadmark.models.pydantic_ai import PydanticAIModel
from threadmark.testing._model import ScriptedModel

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("openai:gpt-5", ("openai", "gpt-5")),
        ("openai/gpt-5", ("openai", "gpt-5")),
        ("openrouter:anthropic/claude-x", ("openrouter", "anthropic/claude-x")),
        ("openrouter/anthropic/claude-x", ("openrouter", "anthropic/claude-x")),
        ("openrouter/google/gemini:free", ("openrouter", "google/gemini:free")),
        ("ollama:llama3:8b", ("ollama", "llama3:8b")),
        ("ollama/llama3:8b", ("ollama", "llama3:8b")),
        ("gateway/openai:gpt-5", ("gateway/openai", "gpt-5")),
    ],
)
def test_the_first_separator_counts(name: str, parts: tuple[str, str]) -> None:
    """A colon or a slash ends the provider; what follows belongs to the model."""
    assert split_name(name) == parts


@pytest.mark.parametrize(
    "name", ["", " ", "gpt-5", ":gpt-5", "/gpt-5", "openai:", "openai/", " openai:x", "openai: "]
)
def test_a_malformed_name_says_what_is_expected(name: str) -> None:
    """The error quotes the name and shows the form."""
    with pytest.raises(ConfigurationError, match="'provider:model'") as caught:
        infer_model(name)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("value", [None, 5, object(), ["openai:x"]])
def test_what_is_no_model_is_refused(value: Any) -> None:
    """Only names and model objects are models."""
    with pytest.raises(ConfigurationError, match=f"not {type(value).__name__}"):
        infer_model(value)


@pytest.mark.parametrize("separator", [":", "/"])
def test_a_name_makes_a_model(monkeypatch: pytest.MonkeyPatch, separator: str) -> None:
    """Both separators give the same model, named in one way."""
    monkeypatch.setenv("OPENROUTER_API_KEY", "sk-or-secret")
    model = infer_model(f"openrouter{separator}anthropic/claude-x")
    assert isinstance(model, PydanticAIModel)
    assert model.name == "openrouter:anthropic/claude-x"
    assert "secret" not in repr(model)


def test_a_missing_key_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a traceback of a provider's client, and no advice that belongs to another library."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(ConfigurationError) as caught:
        infer_model("openai:gpt-5")
    message = "model 'openai:gpt-5' is not configured: set the environment variable OPENAI_API_KEY"
    assert str(caught.value).startswith(message)
    assert "TestModel" not in str(caught.value)
    assert "Agent(" not in str(caught.value)


def test_an_unknown_provider_is_named() -> None:
    """A slip in the provider's name is an error at once, not at the first request."""
    with pytest.raises(ConfigurationError, match="'opneai:gpt-5' cannot be made"):
        infer_model("opneai:gpt-5")


@pytest.mark.parametrize(
    ("name", "module", "command"),
    [
        ("openai:gpt-5", "openai", "pip install 'threadmark[openai]'"),
        ("openai:gpt-5", "threadmark.models.pydantic_ai", "pip install 'threadmark[openai]'"),
        ("anthropic/claude-x", "anthropic", "pip install 'threadmark[anthropic]'"),
        ("google:gemini-x", "google.genai", "pip install 'threadmark[google]'"),
        ("groq:llama", "groq", "pip install 'pydantic-ai-slim[groq]'"),
        ("mistral:small", "threadmark.models.pydantic_ai", "pip install 'pydantic-ai-slim[mistral]'"),
        ("deepseek:chat", "threadmark.models.pydantic_ai", "pip install 'threadmark[openai]'"),
    ],
)
def test_a_missing_package_names_the_command(
    monkeypatch: pytest.MonkeyPatch, name: str, module: str, command: str
) -> None:
    """Whether the provider's client or all of Pydantic AI is missing, one command installs it."""
    provider = name.replace("/", ":").partition(":")[0]
    for loaded in [
        key for key in sys.modules if key.startswith(("pydantic_ai.models.", "pydantic_ai.providers."))
    ]:
        if provider in loaded or "openai" in loaded:
            monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigurationError) as caught:
        infer_model(name)
    assert str(caught.value) == f"model {name!r} needs packages that are not installed; run: {command}"


async def test_model_objects_are_taken_as_they_are() -> None:
    """Ours is returned, one of Pydantic AI is wrapped."""
    from pydantic_ai.models.function import AgentInfo, FunctionModel
    from pydantic_ai.models.test import TestModel

    ours = ScriptedModel(["x"])
    assert infer_model(ours) is ours

    wrapped = infer_model(TestModel(custom_output_text="Hello"))
    assert isinstance(wrapped, Model)
    response = await wrapped.request(ModelRequest(messages=[Message.user("Hi")]))
    assert [getattr(part, "text", None) for part in response.parts] == ["Hello"]

    def fail(messages: Any, info: AgentInfo) -> Any:
        raise ConfigurationError("mine")

    with pytest.raises(ConfigurationError, match="mine"):  # our own errors are not wrapped
        await infer_model(FunctionModel(fail)).request(ModelRequest(messages=[Message.user("Hi")]))


def test_a_function_must_make_a_model() -> None:
    """A wrong object is refused when the model is made, not at the first request."""
    number: Any = 5
    with pytest.raises(ConfigurationError, match="must return a Pydantic AI model, not int"):
        PydanticAIModel(lambda: number)
    with pytest.raises(ConfigurationError, match="not str"):
        PydanticAIModel("openai:x")  # type: ignore[arg-type]


def test_the_door_loads_no_provider_library() -> None:
    """Importing the models, or the scripted one, loads neither pydantic nor Pydantic AI."""
    program = (
        "import sys, threadmark.models, threadmark.testing._model\n"
        "heavy = {'pydantic', 'pydantic_core', 'pydantic_ai', 'openai', 'httpx', 'xllamacpp', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
