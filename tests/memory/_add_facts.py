"""One process of `test_four_processes`: two turns at once, each adding a fact to what it saw."""

import asyncio
import sys

from threadmark import Memory, Message


async def main(path: str, number: str) -> None:
    async with Memory(f"sqlite:///{path}", working_memory=True) as memory:

        async def talk(which: int) -> None:
            turn = await memory.open_turn(
                resource="ana", thread=f"t{number}-{which}", input=[Message.user("hi")]
            )
            await asyncio.sleep(0.2)
            seen = turn.prompt().messages[0].text
            known = [line for line in seen.splitlines() if line.startswith("-")]
            text = "\n".join(["# Facts", *known, f"- fact {number}-{which}", ""])
            await turn.tools()[0].run({"memory": text})
            await turn.commit(Message.assistant("ok"))

        await asyncio.gather(talk(1), talk(2))


asyncio.run(main(*sys.argv[1:]))
