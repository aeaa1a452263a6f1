"""Memory for an agent of your own: open a turn, answer as you like, commit. Runs without a key.

python examples/own_agent.py
"""

import asyncio
from collections.abc import Sequence

from threadmark import Memory, Message


def answer(history: Sequence[Message], question: str) -> str:
    """Stands for any model or framework: it gets what was said before, and what is asked."""
    said = [message.text for message in history if message.role == "user"]
    return f"Before, you said {said}." if said else "Nice to meet you."


async def main() -> None:
    async with Memory("sqlite://", last_messages=6) as memory:
        for text in ("I love hiking.", "I live in Oslo.", "What do you know?"):
            turn = await memory.open_turn(resource="ana", thread="chat", input=[Message.user(text)])
            reply = answer(turn.history, text)
            await turn.commit(Message.assistant(reply))  # question, answer and run, in one transaction
            print(f"ana: {text}\n  {reply}")


asyncio.run(main())
