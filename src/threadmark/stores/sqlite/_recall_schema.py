"""The tables of the recall index, as a numbered step of the schema."""

from __future__ import annotations

from ._driver import Connection


def m006_recall(db: Connection) -> None:
    """The recall index: what `enable_recall` fills. `key` is `messages.key` everywhere.

    `recall_state` has its one row while recall is on: messages up to `backfill_end` were there before, and
    those up to `backfilled_to` of them are indexed.
    """
    for statement in (
        """CREATE TABLE recall_state (
             one INTEGER PRIMARY KEY CHECK (one = 1),
             analysis INTEGER NOT NULL,
             backfilled_to INTEGER NOT NULL,
             backfill_end INTEGER NOT NULL,
             enabled_at REAL NOT NULL
           )""",
        """CREATE TABLE recall_owners (
             owner_no INTEGER PRIMARY KEY AUTOINCREMENT,
             resource_id TEXT NOT NULL UNIQUE,
             messages INTEGER NOT NULL DEFAULT 0
           )""",
        """CREATE TABLE recall_docs (
             owner_no INTEGER NOT NULL,
             key INTEGER NOT NULL,
             role TEXT NOT NULL,
             speaker TEXT,
             at REAL,                -- seconds since 1970
             terms TEXT NOT NULL,    -- the distinct terms, separated by spaces
             PRIMARY KEY (owner_no, key)
           ) WITHOUT ROWID""",
        """CREATE TABLE recall_postings (
             owner_no INTEGER NOT NULL,
             term TEXT NOT NULL,
             block INTEGER NOT NULL, -- the newest is 0 and open; full ones are numbered from 1
             keys BLOB NOT NULL,     -- little-endian 64-bit
             impacts BLOB NOT NULL,  -- one byte each, in the order of keys
             PRIMARY KEY (owner_no, term, block)
           ) WITHOUT ROWID""",
        """CREATE TABLE recall_speakers (
             owner_no INTEGER NOT NULL,
             speaker TEXT NOT NULL,
             messages INTEGER NOT NULL,
             PRIMARY KEY (owner_no, speaker)
           ) WITHOUT ROWID""",
        """CREATE TABLE recall_spaces (
             space_no INTEGER PRIMARY KEY AUTOINCREMENT,
             name TEXT NOT NULL UNIQUE,   -- the embedder's
             dimension INTEGER NOT NULL,
             queued_to INTEGER NOT NULL,  -- of the messages from before, up to `queue_end`, those handed out
             queue_end INTEGER NOT NULL,
             stamps INTEGER NOT NULL DEFAULT 0
           )""",
        """CREATE TABLE recall_vectors (
             vector_no INTEGER PRIMARY KEY,
             owner_no INTEGER NOT NULL,
             space_no INTEGER NOT NULL,
             key INTEGER NOT NULL,
             part INTEGER NOT NULL,
             vector BLOB NOT NULL         -- little-endian float32, length 1
           )""",
        "CREATE UNIQUE INDEX recall_vectors_by_key ON recall_vectors (owner_no, space_no, key, part)",
        """CREATE TABLE recall_codes (
             owner_no INTEGER NOT NULL,
             space_no INTEGER NOT NULL,
             block INTEGER NOT NULL,      -- the newest is 0 and open; full ones are numbered from 1
             keys BLOB NOT NULL,          -- little-endian 64-bit
             codes BLOB NOT NULL,         -- bits of the vectors, in the order of keys
             PRIMARY KEY (owner_no, space_no, block)
           ) WITHOUT ROWID""",
        """CREATE TABLE recall_filled (
             owner_no INTEGER NOT NULL,
             space_no INTEGER NOT NULL,
             messages INTEGER NOT NULL,   -- how many have vectors
             stamp INTEGER NOT NULL,      -- another one whenever a full block of codes changes
             PRIMARY KEY (owner_no, space_no)
           ) WITHOUT ROWID""",
        """CREATE TABLE recall_outbox (
             outbox_no INTEGER PRIMARY KEY AUTOINCREMENT,
             space_no INTEGER NOT NULL,
             key INTEGER NOT NULL,
             due_at REAL NOT NULL,        -- seconds since 1970, as `added_at`
             added_at REAL NOT NULL,
             claims INTEGER NOT NULL DEFAULT 0,
             attempts INTEGER NOT NULL DEFAULT 0,
             error TEXT,
             UNIQUE (space_no, key)
           )""",
        "CREATE INDEX recall_outbox_by_due ON recall_outbox (space_no, due_at)",
    ):
        db.execute(statement)


def m007_recalled_observations(db: Connection) -> None:
    """Observations in the recall index, under the negative of owners' numbers and of their own keys.

    Those up to `notes_end` were there before it, and those up to `notes_to` of them are indexed.
    """
    for statement in (
        "ALTER TABLE recall_state ADD COLUMN notes_to INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE recall_state ADD COLUMN notes_end INTEGER NOT NULL DEFAULT 0",
        "UPDATE recall_state SET notes_end = (SELECT coalesce(max(key), 0) FROM observations)",
        "ALTER TABLE recall_owners ADD COLUMN observations INTEGER NOT NULL DEFAULT 0",
        "INSERT INTO recall_outbox (space_no, key, due_at, added_at) "
        "SELECT s.space_no, -o.key, 0, 0 FROM recall_spaces AS s, observations AS o WHERE o.kind <> 'none'",
    ):
        db.execute(statement)


def m008_recall_language(db: Connection) -> None:
    """The language of the index's words, and whose rules made their stems ("" for Threadmark's own)."""
    for statement in (
        "ALTER TABLE recall_state ADD COLUMN language TEXT NOT NULL DEFAULT 'english'",
        "ALTER TABLE recall_state ADD COLUMN stemmer TEXT NOT NULL DEFAULT ''",
    ):
        db.execute(statement)
