"""Embedding models of providers, by name and as objects of Pydantic AI."""

from __future__ import annotations

import os
from typing import Any

import pytest

from threadmark import ConfigurationError, Memory, Message, SemanticRecall
from threadmark.vectors import CheckedEmbedder, ProviderEmbedder

pytestmark = pytest.mark.anyio
pydantic_ai = pytest.importorskip("pydantic_ai.embeddings", reason="pydantic-ai-slim is not installed")


async def test_an_embedder_of_pydantic_ai() -> None:
    """An `Embedder` or a model of Pydantic AI is an embedder as it is; its dimension is learnt."""
    model = pydantic_ai.TestEmbeddingModel(dimensions=8)
    for given in (model, pydantic_ai.Embedder(model)):
        async with Memory("sqlite://", embedder=given, semantic_recall=True) as memory:
            await memory.resource("ana").thread("t").save("My puppy is called Biscuit.")
            found = await memory.resource("ana").recall("puppy")
            assert (found.mode, found.degraded, found.embedded) == ("hybrid", None, 1)
            (space,) = (await memory.index_state()).spaces
            assert space.dimension == 8
            assert "test" in space.name


async def test_queries_and_documents_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider is told which texts are queries, and gets the settings; long lists go in batches."""
    calls: list[tuple[int, str, Any]] = []

    base: Any = pydantic_ai.TestEmbeddingModel

    class Model(base):  # type: ignore[misc]
        async def embed(self, inputs: Any, *, input_type: Any, settings: Any = None) -> Any:
            calls.append((len(inputs), input_type, dict(settings or {})))
            return await super().embed(inputs, input_type=input_type, settings=settings)

    embedder = ProviderEmbedder(Model(dimensions=4), dimensions=4, settings={"truncate": True})
    assert embedder.name.endswith("@4")
    assert len(await embedder.embed([f"text {i}" for i in range(100)])) == 100
    await embedder.embed(["question"], query=True)
    wanted = {"truncate": True, "dimensions": 4}
    assert calls == [(96, "document", wanted), (4, "document", wanted), (1, "query", wanted)]


def test_names() -> None:
    """Both separators name the same vectors; dimensions are part of the name."""
    names = {ProviderEmbedder(name).name for name in ("openai:text-embedding-3-small",
                                                      "openai/text-embedding-3-small")}  # fmt: skip
    assert names == {"openai:text-embedding-3-small"}
    assert ProviderEmbedder("openai:x", dimensions=512).name == "openai:x@512"


@pytest.mark.parametrize("name", ["", "nothing", ":x", "openai:"])
def test_what_is_no_name_is_refused(name: str) -> None:
    """A name without provider or model is a `ConfigurationError` when it is given."""
    with pytest.raises(ConfigurationError, match="embedder"):
        ProviderEmbedder(name)


async def test_a_missing_key_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the provider's key opening and recall say which variable to set; saving works all the same."""
    pytest.importorskip("openai", reason="the openai package is not installed")
    for name in list(os.environ):
        if name.endswith("_API_KEY"):
            monkeypatch.delenv(name)
    settings = SemanticRecall(embedder="openai:text-embedding-3-small")
    with pytest.raises(ConfigurationError, match="OPENAI_API_KEY"):
        await CheckedEmbedder(ProviderEmbedder("openai:text-embedding-3-small")).measure()
    memory = Memory("sqlite://", semantic_recall=settings)
    with pytest.raises(ConfigurationError, match="OPENAI_API_KEY"):
        await memory.open()
    ana = memory.resource("ana")
    await ana.thread("t").save(Message.user("My puppy is called Biscuit."))
    with pytest.raises(ConfigurationError, match="OPENAI_API_KEY"):
        await ana.recall("puppy")
    assert (await ana.recall("puppy", mode="lexical")).hits
    await memory.aclose()
