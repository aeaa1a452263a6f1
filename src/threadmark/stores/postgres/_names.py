"""The qualified names of the tables: no search path has to be right, also behind a pooler."""

from __future__ import annotations


class Names:
    """Tables and functions of one schema."""

    __slots__ = ("lock_owner", "messages", "resources", "runs", "schema", "threads", "working", "write_turn")

    def __init__(self, schema: str) -> None:
        self.schema = f'"{schema}"'
        self.resources = f"{self.schema}.resources"
        self.threads = f"{self.schema}.threads"
        self.messages = f"{self.schema}.messages"
        self.runs = f"{self.schema}.runs"
        self.working = f"{self.schema}.working_memory"
        self.lock_owner = f"{self.schema}.lock_owner"
        self.write_turn = f"{self.schema}.write_turn"
