"""The models of a soak: what they say follows from what they are asked, and they look at what they see."""

from __future__ import annotations

import itertools
import json
import random
import re
from typing import Any

from threadmark import ModelError, ToolPart
from threadmark.models.base import ModelRequest
from threadmark.testing import ScriptedModel, ToolCall

from .ledger import MARKS, Ledger


class Models:
    """Scripted models that share one count of orders, so that no order is asked for twice."""

    def __init__(self, seed: int, ledger: Ledger) -> None:
        self._seed = seed
        self._ledger = ledger
        self._orders = itertools.count(1)
        self.lead = ScriptedModel(self._lead, name="scripted:lead")
        self.helper = ScriptedModel(self._helper, name="scripted:helper")
        self.router = ScriptedModel(self._router, name="scripted:router")
        self.observer = ScriptedModel(self._observer, name="scripted:observer")

    def _chance(self, request: ModelRequest) -> tuple[random.Random, str]:
        """A random choice that depends on what is asked alone, and the mark of whose it is.

        Whatever anybody else has said must not be there.
        """
        for model in (self.lead, self.helper, self.router, self.observer):
            model.requests.clear()  # they are looked at here, and would be all that is in memory
        seen = MARKS.findall(repr((request.instructions, request.messages)))
        if len(set(seen)) > 1:
            self._ledger.wrong.append(f"a prompt holds text of {sorted(set(seen))}: {request}")
        last = request.messages[-1]
        text = repr([part.to_dict() if hasattr(part, "to_dict") else part for part in last.parts])
        return random.Random(f"{self._seed}/{len(request.messages)}/{text}"), seen[-1] if seen else "nobody"

    def _order(self, mark: str) -> str:
        return f"{mark}-{next(self._orders)}"

    def _lead(self, request: ModelRequest) -> Any:
        chance, mark = self._chance(request)
        last = request.messages[-1]
        names = {tool.name for tool in request.tools}
        if request.output is not None:
            return json.dumps({"order": mark, "days": 2})
        if last.role != "user" or "refund" not in names:
            calls = sum(isinstance(part, ToolPart) for part in last.parts)
            if "refund" in names and calls < 4 and chance.random() < 0.12:
                return ToolCall("refund", {"order": self._order(mark)})
            return f"fine {mark} " + "word " * chance.randrange(80)
        if "please fail" in last.text:
            return ModelError("the provider is down")
        order = self._order(mark)
        replies: list[tuple[float, Any]] = [
            (0.10, ToolCall("refund", {"order": order})),
            (0.08, [ToolCall("look", {"order": order}), ToolCall("refund", {"order": order})]),
            (0.05, [ToolCall("refund", {"order": order}), ToolCall("refund", {"order": self._order(mark)})]),
            (0.08, ToolCall("update_working_memory", {"memory": f"# About {mark}\n- note {order}"})),
            (0.14, ToolCall("agent-helper", {"prompt": f"do {order}"})),
            (0.05, [ToolCall("agent-helper", {"prompt": f"do {order}"}), ToolCall("look", {"order": order})]),
            (0.07, ToolCall("workflow-pay_back", {"order": order})),
            (0.06, ToolCall("choose", {"order": order})),
            (0.03, ToolCall("nothing_like_it", {"x": 1})),
            (0.03, ToolCall("refund", '{"order": ')),
            (0.06, ToolCall("recall", {"query": f"{mark} order"})),
        ]
        roll = chance.random()
        for share, reply in replies:
            roll -= share
            if roll < 0:
                return reply
        return f"fine {mark} " + "word " * chance.randrange(80)

    def _helper(self, request: ModelRequest) -> Any:
        chance, mark = self._chance(request)
        if request.messages[-1].role == "user" and chance.random() < 0.5:
            return ToolCall("refund", {"order": self._order(mark)})
        if chance.random() < 0.1:
            return ModelError("the helper's provider is down")
        return f"helped {mark}"

    def _router(self, request: ModelRequest) -> Any:
        chance, mark = self._chance(request)
        if "# Is it done?" in request.instructions:
            done = chance.random() < 0.7
            result = f"routed {mark}" if done else None
            return json.dumps({"is_complete": done, "completion_reason": "so", "final_result": result})
        if "# Routing" not in request.instructions:
            return f"titled {mark}"
        kind, name, prompt = chance.choice(
            [
                ("agent", "helper", f"do it for {mark}"),
                ("tool", "refund", json.dumps({"order": self._order(mark)})),
                ("tool", "look", json.dumps({"order": mark})),
                ("workflow", "pay_back", json.dumps({"order": self._order(mark)})),
                ("none", "none", f"nothing to do, {mark}"),
            ]
        )
        return json.dumps({"primitive_id": name, "primitive_type": kind, "prompt": prompt})

    def _observer(self, request: ModelRequest) -> Any:
        """Observes messages, and condenses lines."""
        chance, mark = self._chance(request)
        text = request.messages[-1].text
        if "You condense the log" in request.instructions:
            lines = sorted(set(re.findall(r"\bo\d+\b", text)), key=lambda id_: int(id_[1:]))
            return f"- (medium fact) gist of {mark} {chance.random()} [{', '.join(lines)}]"
        told = [
            f"- (medium fact) {mark} said something, number {chance.random()} [m{number}]"
            if int(number) % 3
            else f"NOTHING m{number}"
            for number in sorted(set(re.findall(r"\bm(\d+)\b", text)), key=int)
        ]
        return "\n".join(told) or "NOTHING"
