"""Two users share one agent and one file, and stay apart. Runs without a key: the model here is a script.

python examples/two_users.py
"""

import asyncio

from threadmark import Agent, Memory
from threadmark.models.base import ModelRequest
from threadmark.testing import ScriptedModel


def answer(request: ModelRequest) -> str:
    """Says what a model would see: replace it with a model name such as "openai:gpt-5.4-mini"."""
    return f"I see {len(request.messages)} messages, the last one: {request.messages[-1].text}"


async def main() -> None:
    async with Memory("sqlite://", last_messages=20) as memory:
        agent = Agent("assistant", model=ScriptedModel(answer), memory=memory)
        for user, text in [("ana", "I love hiking."), ("bob", "I love tea."), ("ana", "What do I love?")]:
            result = await agent.generate(text, resource=user, thread="chat")
            print(f"{user}: {text}\n  {result.text}")
        for user in ("ana", "bob"):
            page = await memory.resource(user).thread("chat").messages()
            print(user, "has", [message.text for message in page if message.role == "user"])


asyncio.run(main())
