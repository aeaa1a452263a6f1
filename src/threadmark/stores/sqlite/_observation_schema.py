"""The tables of observations: a step of the schema (`_migrations`)."""

from __future__ import annotations

from ._driver import Connection


def m005_observations(db: Connection) -> None:
    """Observations, where they come from, what has been observed, and the jobs that do it.

    `observations.hidden` is 1 for rows that something in view stands for; an index holds the others only.
    """
    db.execute("ALTER TABLE resources ADD COLUMN last_observation INTEGER NOT NULL DEFAULT 0")
    for statement in (
        """CREATE TABLE observations (
             key INTEGER PRIMARY KEY,
             resource_id TEXT NOT NULL,
             number INTEGER NOT NULL,
             thread_number INTEGER NOT NULL,
             thread_id TEXT NOT NULL,
             kind TEXT NOT NULL,
             priority TEXT NOT NULL,
             text TEXT NOT NULL,
             made_by TEXT NOT NULL,
             origin TEXT NOT NULL,
             speaker_id TEXT,
             subject TEXT,
             said_at TEXT,
             event_from TEXT,
             event_to TEXT,
             event_precision TEXT,
             from_seq INTEGER NOT NULL,
             to_seq INTEGER NOT NULL,
             place INTEGER NOT NULL,
             pending INTEGER NOT NULL DEFAULT 0,
             hidden INTEGER NOT NULL DEFAULT 0,
             tokens INTEGER NOT NULL DEFAULT 0,
             count INTEGER NOT NULL DEFAULT 1,
             flags TEXT NOT NULL DEFAULT '[]',
             job_id TEXT NOT NULL,
             recorded_at TEXT NOT NULL,
             retired_at TEXT,
             superseded_by INTEGER,
             superseded_at TEXT,
             UNIQUE (resource_id, number)
           )""",
        "CREATE INDEX observations_by_thread ON observations (thread_number, to_seq)",
        "CREATE INDEX observations_in_view ON observations (thread_number, place, number) WHERE hidden = 0",
        """CREATE INDEX observations_profile ON observations (resource_id, number)
             WHERE hidden = 0 AND priority = 'high'""",
        """CREATE INDEX observations_superseded ON observations (superseded_by)
             WHERE superseded_by IS NOT NULL""",
        """CREATE TABLE observation_sources (
             observation_key INTEGER NOT NULL,
             message_key INTEGER NOT NULL,
             part INTEGER,
             char_from INTEGER,
             char_to INTEGER
           )""",
        """CREATE UNIQUE INDEX observation_sources_once ON observation_sources (
             observation_key, message_key, coalesce(part, -1), coalesce(char_from, -1)
           )""",
        "CREATE INDEX observation_sources_by_message ON observation_sources (message_key)",
        """CREATE TABLE observation_children (
             summary_key INTEGER NOT NULL,
             child_key INTEGER NOT NULL,
             PRIMARY KEY (summary_key, child_key)
           ) WITHOUT ROWID""",
        "CREATE INDEX observation_children_by_child ON observation_children (child_key)",
        """CREATE TABLE observation_logs (
             thread_number INTEGER PRIMARY KEY,
             resource_id TEXT NOT NULL,
             observed_seq INTEGER NOT NULL DEFAULT 0,
             visible_seq INTEGER NOT NULL DEFAULT 0,
             version INTEGER NOT NULL DEFAULT 0,
             fence INTEGER NOT NULL DEFAULT 0,
             hints TEXT NOT NULL DEFAULT '{}',
             extracted TEXT NOT NULL DEFAULT '{}',
             observer_failures INTEGER NOT NULL DEFAULT 0,
             observer_retry_at TEXT,
             reflector_failures INTEGER NOT NULL DEFAULT 0,
             reflector_retry_at TEXT
           )""",
        """CREATE TABLE observation_gaps (
             thread_number INTEGER NOT NULL,
             seq INTEGER NOT NULL,
             attempts INTEGER NOT NULL DEFAULT 0,
             PRIMARY KEY (thread_number, seq)
           ) WITHOUT ROWID""",
        """CREATE TABLE observation_jobs (
             thread_number INTEGER NOT NULL,
             resource_id TEXT NOT NULL,
             id TEXT NOT NULL,
             kind TEXT NOT NULL,
             from_seq INTEGER NOT NULL,
             to_seq INTEGER NOT NULL,
             prompt TEXT NOT NULL,
             holder TEXT NOT NULL,
             fence INTEGER NOT NULL,
             state TEXT NOT NULL,
             attempts INTEGER NOT NULL,
             until TEXT NOT NULL,
             started_at TEXT NOT NULL,
             finished_at TEXT,
             error TEXT,
             usage TEXT NOT NULL DEFAULT '{}',
             PRIMARY KEY (thread_number, id),
             UNIQUE (thread_number, kind, from_seq, to_seq, prompt)
           ) WITHOUT ROWID""",
    ):
        db.execute(statement)
