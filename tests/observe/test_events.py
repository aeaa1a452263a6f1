"""What memory does, told while it is done: in the stream of a run, and never a word of the conversation."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest

from threadmark import Agent, Memory, MemoryEvent, ObservationalMemory
from threadmark.agents.events import DataEvent, event_from_dict
from threadmark.memory.background import Background
from threadmark.testing import ScriptedModel

from .test_sources import note_each

pytestmark = pytest.mark.anyio

WORDS = "My secret word is abracadabra, and here is some more that I have to say about it. "


async def test_a_stream_tells_what_memory_does() -> None:
    """Status before each model call, and what is observed and activated meanwhile, before the last event."""
    settings = ObservationalMemory(
        model=ScriptedModel(note_each),
        observation={"message_tokens": 120, "buffer_tokens": 30},  # type: ignore[arg-type]
        deadline=30,
    )
    told: list[MemoryEvent] = []
    async with Memory("sqlite://", observational_memory=settings, on_event=told.append) as memory:
        agent = Agent("helper", model=ScriptedModel(lambda request: "I see. " + WORDS), memory=memory)
        names: list[str] = []
        for _ in range(5):
            events: list[Any] = []
            async with agent.stream(WORDS, resource="ana", thread="t") as stream:
                async for event in stream:
                    events.append(event)
            data = [event for event in events if isinstance(event, DataEvent)]
            names += [event.name for event in data]
            assert events[0].type == "start"
            assert events[-1].type == "finish"
            status = next(event for event in data if event.name == "data-om-status")
            assert status.data["active"]["messages"]["threshold"] == 120
            assert status.data["step"] == 1
            assert "abracadabra" not in json.dumps([event.to_dict() for event in data])
            for event in data:
                assert event_from_dict(event.to_dict()) == event
            await memory.settled()
    assert names.count("data-om-status") == 5
    assert "data-om-activation" in names
    assert "data-om-status" not in {event.name for event in told}
    assert "abracadabra" not in str(told)
    starts = [event.data["job_id"] for event in told if event.name.endswith("observation-start")]
    ends = [event.data["job_id"] for event in told if event.name.endswith(("observation-end", "-failed"))]
    assert starts == ends
    assert len(set(starts)) == len(starts) > 0


async def test_without_observations_streams_are_as_they_were() -> None:
    """No data events."""
    async with Memory("sqlite://") as memory:
        agent = Agent("helper", model=ScriptedModel(["Hi."]), memory=memory)
        async with agent.stream("Hello.", resource="ana", thread="t") as stream:
            assert [event async for event in stream if isinstance(event, DataEvent)] == []


async def test_listeners_hear_their_thread_on_their_loop() -> None:
    """Only of their thread, on their own loop from wherever it is told, and nothing after they left."""
    background = Background()
    heard: list[tuple[str, int]] = []

    def hear(event: MemoryEvent) -> None:
        heard.append((event.name, threading.get_ident()))

    def tell(name: str, thread: str = "t") -> None:
        background.tell(MemoryEvent(name=name, resource_id="ana", thread_id=thread))

    with background.listening("ana", "t", hear):
        tell("one")
        tell("other", "u")
        await asyncio.to_thread(tell, "two")
        await asyncio.sleep(0)
        worker = threading.Thread(target=tell, args=("late",))
        worker.start()
        worker.join()
    await asyncio.sleep(0)
    tell("three")
    assert heard == [("one", threading.get_ident()), ("two", threading.get_ident())]


async def test_a_listener_that_fails_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged."""
    background = Background()

    def hear(event: MemoryEvent) -> None:
        raise RuntimeError("no")

    with background.listening("ana", "t", hear):
        background.tell(MemoryEvent(name="one", resource_id="ana", thread_id="t"))
    assert "a listener failed" in caplog.text
