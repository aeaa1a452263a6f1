"""The calls of an agent that run a network, and go on with one that waits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Unpack

from .._types import Json
from .deciding import NO_DATA
from .options import check_call
from .prompts import Prompt
from .stream import AgentStream, SyncAgentStream

if TYPE_CHECKING:
    from .agent import Agent
    from .network.network import NetworkOptions
    from .network.stream import NetworkStream, SyncNetworkStream
    from .resumable import CallRef


class Networks:
    """What an agent does as the router of a network."""

    def network(self, prompt: Prompt | Sequence[Prompt], **options: Unpack[NetworkOptions]) -> NetworkStream:
        """Have this agent route a task over its agents, workflows and tools, until it is done.

            async with agent.network("Research it, then write it up.", resource="u", thread="t") as stream:
                async for event in stream: ...
            print((await stream.result()).text)

        Sub-agents do the same with less: see `Agent(agents=...)`. Wrong arguments raise here; whatever fails
        later is in the stream's last event, and is raised by `result()`.
        """
        from .network.network import NetworkAgent, check_options
        from .network.stream import NetworkStream

        given, rest = check_options(options)
        agent, call = NetworkAgent(self._router, given), check_call(prompt, rest)
        return NetworkStream(
            agent, AgentStream(lambda emit: agent._answer(call, emit), call.run_id, agent.name)
        )

    def network_sync(
        self, prompt: Prompt | Sequence[Prompt], **options: Unpack[NetworkOptions]
    ) -> SyncNetworkStream:
        """Like `network`, for synchronous code."""
        return _sync(self.network(prompt, **options))

    def approve_network_tool_call(
        self,
        tool_call_id: CallRef | Sequence[CallRef] | None = None,
        *,
        run_id: str,
        args: Mapping[str, Json] | None = None,
        **options: Any,
    ) -> NetworkStream:
        """Approve what a network waits for, and go on; the one pending call, unless told which.

        `options` are those of `approve`, and the network's own (`instructions`, `checks`, ...) instead of
        those that the run had. Functions cannot be stored: a run that had `checks` needs them given again.
        """
        return self._go_on("approve", tool_call_id, run_id, {"args": args}, options)

    def decline_network_tool_call(
        self,
        tool_call_id: CallRef | Sequence[CallRef] | None = None,
        *,
        run_id: str,
        reason: str | None = None,
        **options: Any,
    ) -> NetworkStream:
        """Decline what a network waits for, and go on; the router is told `reason`."""
        return self._go_on("decline", tool_call_id, run_id, {"reason": reason}, options)

    def resume_network(
        self, data: Json = NO_DATA, *, run_id: str, tool_call_id: CallRef | None = None, **options: Any
    ) -> NetworkStream:
        """Answer a suspended call of a network with `data`, and go on."""
        return self._go_on("resume", tool_call_id, run_id, {"data": data}, options)

    def approve_network_tool_call_sync(
        self, tool_call_id: CallRef | Sequence[CallRef] | None = None, **options: Any
    ) -> SyncNetworkStream:
        """Like `approve_network_tool_call`, for synchronous code."""
        return _sync(self.approve_network_tool_call(tool_call_id, **options))

    def decline_network_tool_call_sync(
        self, tool_call_id: CallRef | Sequence[CallRef] | None = None, **options: Any
    ) -> SyncNetworkStream:
        """Like `decline_network_tool_call`, for synchronous code."""
        return _sync(self.decline_network_tool_call(tool_call_id, **options))

    def resume_network_sync(self, data: Json = NO_DATA, **options: Any) -> SyncNetworkStream:
        """Like `resume_network`, for synchronous code."""
        return _sync(self.resume_network(data, **options))

    @property
    def _router(self) -> Agent:
        return self  # type: ignore[return-value]

    def _go_on(
        self,
        what: Literal["approve", "decline", "resume"],
        calls: Any,
        run_id: str,
        arguments: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> NetworkStream:
        from .network.network import OWN, NetworkAgent
        from .network.stream import NetworkStream

        agent = NetworkAgent(self._router, {name: value for name, value in options.items() if name in OWN})
        rest = {name: value for name, value in options.items() if name not in OWN}
        return NetworkStream(agent, agent.go_on_stream(what, calls, run_id, arguments, rest))


def _sync(stream: NetworkStream) -> SyncNetworkStream:
    from .network.stream import SyncNetworkStream

    return SyncNetworkStream(stream._agent, SyncAgentStream(stream._stream))
