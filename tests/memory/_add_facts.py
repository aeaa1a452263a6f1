"""One process of `test_four_processes`: two turns at once, each adding a fact to what it saw."""

import asyncio
import sys

from threadmark import Memory, Message, WorkingMemory


async def main(path: str, number: str, kind: str) -> None:
    settings = WorkingMemory(schema={"type": "object"}) if kind == "schema" else WorkingMemory()
    async with Memory(f"sqlite:///{path}", working_memory=settings) as memory:

        async def talk(which: int) -> None:
            turn = await memory.open_turn(
                resource="ana", thread=f"t{number}-{which}", input=[Message.user("hi")]
            )
            await asyncio.sleep(0.2)
            seen = turn.prompt().messages[0].text
            known = [line for line in seen.splitlines() if line.startswith("-")]
            fact: object = "\n".join(["# Facts", *known, f"- fact {number}-{which}", ""])
            if kind == "schema":
                fact = {f"fact-{number}-{which}": which}
            await turn.tools()[0].run({"memory": fact})
            await turn.commit(Message.assistant("ok"))

        await asyncio.gather(talk(1), talk(2))


asyncio.run(main(*sys.argv[1:]))
