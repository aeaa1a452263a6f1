"""Turns of ours, as `mastra.mjs` does those of @mastra/pg: one process, which `peers.py` starts."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from threadmark import Agent, Memory, Message
from threadmark.stores.postgres import PostgresStore
from threadmark.testing import ScriptedModel


async def main(given: dict[str, Any]) -> None:
    question, answer = given["texts"]
    store = PostgresStore(given["url"], schema=given["schema"], pool_size=given["pool"])
    async with Memory(store, last_messages=20) as memory:
        user = memory.resource("ann")
        agent = Agent(
            "bench",
            instructions="You are helpful.",
            model=ScriptedModel(lambda request: answer),
            memory=memory,
        )

        async def turn(name: str) -> None:
            if given["what"] == "agent":
                result = await agent.generate(question, resource="ann", thread=name)
                assert result.text == answer
                return
            thread = user.thread(name)
            if given["what"] == "read and save":
                await thread.messages(page=0, per_page=20)
            await thread.save([Message.user(question), Message.assistant(answer)])

        for name in given["threads"]:
            for _ in range(10):
                await turn(name)
        print("ready", flush=True)
        sys.stdin.readline()
        times: list[float] = []
        cpu, start = time.process_time(), time.perf_counter()

        async def write(name: str) -> None:
            now = start
            while now < start + given["seconds"]:
                before = now
                await turn(name)
                now = time.perf_counter()
                times.append((now - before) * 1000)

        await asyncio.gather(*[write(name) for name in given["threads"]])
        elapsed, cpu = time.perf_counter() - start, time.process_time() - cpu
        print(json.dumps({"times": times, "errors": {}, "elapsed": elapsed, "cpu": cpu}))


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
