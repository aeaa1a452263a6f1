"""A long-running workflow on DBOS that calls an agent: killed at any moment, it goes on where it was.

DBOS keeps which step has been done; each agent call has a `run_id`, so a step that is executed again after a
crash gets the stored answer and asks no model. A call that the crash cut off counts as under way for two
minutes, then as aborted, because what its tools did is unknown; this one has no tools, and is made again.
Needs `pip install threadmark dbos`; runs without a key.

    python examples/dbos_refund.py            # all of it
    python examples/dbos_refund.py start      # only to where the manager decides; kill it, start it again
    python examples/dbos_refund.py approve    # the manager's decision, from another process

A folder for the two databases may follow; default: the current one.
"""

from __future__ import annotations

import sys
from pathlib import Path

from dbos import DBOS, DBOSClient, SetWorkflowID

from threadmark import Agent, Memory
from threadmark.offline import OfflineResponder

FOLDER = Path(sys.argv[2]) if len(sys.argv) > 2 else Path()
WORKFLOW = "refund-7"

JOURNAL = f"sqlite:///{FOLDER / 'workflows.sqlite'}"

DBOS(config={"name": "refunds", "system_database_url": JOURNAL, "log_level": "ERROR"})
memory = Memory(f"sqlite:///{FOLDER / 'shop.db'}")
agent = Agent("support", model=OfflineResponder(memory.resource("ana")), memory=memory)


@DBOS.step(retries_allowed=True, interval_seconds=5, backoff_rate=1, max_attempts=30)
def ask(question: str, call: str) -> str:
    """One turn of the agent. `call` names it, so that it is stored once whatever happens."""
    for attempt in range(1, 100):
        run_id = f"{WORKFLOW}/{call}/{attempt}"
        result = agent.generate_sync(question, resource="ana", thread="orders", run_id=run_id)
        if result.finish_reason != "aborted":
            break
    return str(result.text)


@DBOS.workflow()
def refund(order: str) -> str:
    ask(f"My order number is {order}, and it arrived broken.", "report")
    decision = DBOS.recv("manager", timeout_seconds=600)
    ask(f"The manager says: {decision}.", "decision")
    return ask("What is my order number?", "answer")


def main(what: str) -> None:
    if what == "approve":
        DBOSClient(system_database_url=JOURNAL).send(WORKFLOW, "approved", "manager")
        return
    DBOS.launch()
    with SetWorkflowID(WORKFLOW):  # the same id again: the same workflow
        handle = DBOS.start_workflow(refund, "7")
    if what == "all":
        DBOS.send(WORKFLOW, "approved", "manager")
    print(handle.get_result(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "all")
