"""The functions that are kept in the database.

A turn is one statement: it takes its locks, writes and commits without waiting for anything from the client,
so a client that is slow or dies holds nobody up. "{s}" stands for the quoted schema.

Locks are taken in one order, the owner's row in `resources` and then a thread's, so that writers wait for one
another and never in a circle. What a function refuses it tells with one of the codes below.
"""

from __future__ import annotations

NO_THREAD = "TM001"
"""The thread does not exist. The message is its id."""

ELSEWHERE = "TM002"
"""A message's id is in use in another of the owner's threads. The message is that id."""

RUN_EXISTS = "TM003"
"""A run of that id exists."""

RUN_CHANGED = "TM004"
"""The run is not there in that version, in that thread."""

MEMORY_CHANGED = "TM005"
"""The working memory has another version. The message is that version."""

RECALL_CHANGED = "TM007"
"""The terms given are not of the index's language, or it is off. The message is that language, or ""."""

OBSERVED = "TM008"
"""A message that was observed gets another content. What was noted about it has to go first."""

NEEDS_MERGE = "TM006"
"""The thread exists, and the metadata given has to be merged with its own."""

LOCK_OWNER = """
CREATE OR REPLACE FUNCTION {s}.lock_owner(p_owner text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  LOOP
    PERFORM 1 FROM {s}.resources WHERE id = p_owner FOR NO KEY UPDATE;
    EXIT WHEN FOUND;
    INSERT INTO {s}.resources (id) VALUES (p_owner) ON CONFLICT (id) DO NOTHING;
    EXIT WHEN FOUND;
  END LOOP;
END $$
"""

FORGET_SOURCE = """
CREATE OR REPLACE FUNCTION {s}.forget_source(p_owner text, p_numbers bigint[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
  -- Clones may be another owner's, whose rows row-level security hides from whoever erases.
  UPDATE {s}.threads AS c SET source_number = NULL, source_thread_id = NULL, source_message_id = NULL,
      cloned_at = NULL
    FROM {s}.threads AS t
    WHERE c.source_number = ANY(p_numbers) AND t.number = c.source_number AND t.resource_id = p_owner
      AND p_owner = coalesce(nullif(current_setting('threadmark.owner', true), ''), p_owner)
$$
"""

WRITE_TURN = """
CREATE OR REPLACE FUNCTION {s}.write_turn(
  p_owner text, p_thread text, p_now timestamptz, p_create boolean, p_title text,
  p_metadata text, p_scalars jsonb, p_merged boolean,
  p_messages json, p_recall text, p_forgotten boolean, p_run json, p_memory json, p_window json
) RETURNS TABLE (thread {s}.threads, created boolean, seqs bigint[], times timestamptz[])
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
  v_thread {s}.threads;
  v_created boolean := false;
  v_seq bigint;
  v_kept bigint;
  v_at timestamptz;
  v_seqs bigint[] := '{}';
  v_times timestamptz[] := '{}';
  v_replaced boolean := false;
  v_message record;
  v_run record;
  v_memory record;
  v_window record;
  v_number bigint;
  v_version bigint;
  v_language text;
  v_owner_no bigint;
  v_key bigint;
  v_keys bigint[] := '{}';
BEGIN
  IF p_memory IS NOT NULL AND p_memory->>'thread' IS NULL THEN
    PERFORM {s}.lock_owner(p_owner);
  END IF;
  LOOP
    SELECT * INTO v_thread FROM {s}.threads WHERE resource_id = p_owner AND id = p_thread FOR NO KEY UPDATE;
    IF FOUND THEN
      IF p_metadata IS NOT NULL AND NOT p_merged THEN
        RAISE EXCEPTION USING ERRCODE = 'TM006', MESSAGE = p_thread;
      END IF;
      EXIT;
    END IF;
    IF NOT p_create THEN
      RAISE EXCEPTION USING ERRCODE = 'TM001', MESSAGE = p_thread;
    END IF;
    PERFORM {s}.lock_owner(p_owner);
    INSERT INTO {s}.threads (resource_id, id, title, title_source, metadata, scalars, created_at, updated_at)
      VALUES (p_owner, p_thread, p_title, CASE WHEN p_title <> '' THEN 'user' END,
              coalesce(p_metadata, '{}'), p_scalars, p_now, p_now)
      ON CONFLICT (resource_id, id) DO NOTHING RETURNING * INTO v_thread;
    IF FOUND THEN
      v_created := true;
      UPDATE {s}.resources SET thread_count = thread_count + 1 WHERE id = p_owner;
      EXIT;
    END IF;
  END LOOP;

  v_seq := v_thread.last_seq;
  IF p_messages::text <> '[]' THEN
    -- Who switches recall on waits for this lock, so what is read after it stays true.
    LOCK TABLE {s}.messages IN ROW EXCLUSIVE MODE;
    SELECT language INTO v_language FROM {s}.recall_state;
    IF v_language IS DISTINCT FROM p_recall THEN
      RAISE EXCEPTION USING ERRCODE = 'TM007', MESSAGE = coalesce(v_language, '');
    END IF;
    IF p_recall IS NOT NULL THEN
      SELECT number INTO v_owner_no FROM {s}.resources WHERE id = p_owner;
    END IF;
  END IF;
  FOR v_message IN SELECT * FROM json_to_recordset(p_messages) AS m (
    id text, role text, speaker_id text, speaker_name text, speaker_role text,
    parts text, metadata text, scalars jsonb, run_id text, created_at timestamptz, terms json
  ) LOOP
    INSERT INTO {s}.messages (key, resource_id, thread_id, seq, id, role, speaker_id, speaker_name,
                              speaker_role, parts, metadata, scalars, run_id, created_at)
      VALUES (v_thread.number * 4294967296 + v_seq + 1, p_owner, p_thread, v_seq + 1, v_message.id,
              v_message.role, v_message.speaker_id, v_message.speaker_name, v_message.speaker_role,
              v_message.parts, v_message.metadata, v_message.scalars, v_message.run_id, v_message.created_at)
      ON CONFLICT (resource_id, id) DO NOTHING;
    IF FOUND THEN
      v_seq := v_seq + 1;
      v_seqs := v_seqs || v_seq;
      v_times := v_times || v_message.created_at;
      v_key := v_thread.number * 4294967296 + v_seq;
    ELSE
      IF NOT p_forgotten AND EXISTS (
        SELECT 1 FROM {s}.messages AS m JOIN {s}.observation_logs AS l ON l.thread_number = v_thread.number
          WHERE m.resource_id = p_owner AND m.id = v_message.id AND m.thread_id = p_thread
            AND l.observed_seq >= m.seq AND (m.role, m.speaker_id, m.parts)
              IS DISTINCT FROM (v_message.role, v_message.speaker_id, v_message.parts)
      ) THEN
        RAISE EXCEPTION USING ERRCODE = 'TM008', MESSAGE = v_message.id;
      END IF;
      UPDATE {s}.messages SET role = v_message.role, speaker_id = v_message.speaker_id,
          speaker_name = v_message.speaker_name, speaker_role = v_message.speaker_role,
          parts = v_message.parts, metadata = v_message.metadata, scalars = v_message.scalars,
          run_id = v_message.run_id
        WHERE resource_id = p_owner AND id = v_message.id AND thread_id = p_thread
        RETURNING seq, created_at INTO v_kept, v_at;
      IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'TM002', MESSAGE = v_message.id;
      END IF;
      v_seqs := v_seqs || v_kept;
      v_times := v_times || v_at;
      v_replaced := true;
      IF p_recall IS NOT NULL THEN
        v_key := v_thread.number * 4294967296 + v_kept;
        PERFORM {s}.recall_unindex(v_owner_no, ARRAY[v_key]);
        DELETE FROM {s}.recall_vectors WHERE owner_no = v_owner_no AND key = v_key
          AND space_no IN (SELECT space_no FROM {s}.recall_spaces);
      END IF;
    END IF;
    IF p_recall IS NOT NULL THEN
      PERFORM {s}.recall_index(v_owner_no, v_key, v_message.terms);
      v_keys := v_keys || v_key;
    END IF;
  END LOOP;
  IF p_recall IS NOT NULL THEN
    PERFORM {s}.recall_enqueue(p_owner, v_keys, extract(epoch FROM p_now)::double precision);
  END IF;

  IF NOT v_created OR v_seq > 0 OR p_window IS NOT NULL THEN
    SELECT * INTO v_window FROM json_to_record(coalesce(p_window, '{}'))
      AS w (seq bigint, memory bigint, fingerprint text, counted text);
    UPDATE {s}.threads SET
        metadata = CASE WHEN p_merged THEN p_metadata ELSE metadata END,
        scalars = CASE WHEN p_merged THEN p_scalars ELSE scalars END,
        version = version + p_merged::integer,
        updated_at = greatest(updated_at, p_now),
        message_count = message_count + v_seq - v_thread.last_seq,
        last_seq = v_seq,
        window_seq = coalesce(v_window.seq, window_seq),
        window_memory = coalesce(v_window.memory, window_memory),
        window_fingerprint = coalesce(v_window.fingerprint, window_fingerprint),
        window_counted = coalesce(v_window.counted, window_counted)
      WHERE resource_id = p_owner AND id = p_thread RETURNING * INTO v_thread;
  END IF;

  IF p_run IS NOT NULL THEN
    SELECT * INTO v_run FROM json_to_record(p_run) AS r (
      id text, agent text, status text, finish_reason text, usage text, error text,
      started_at timestamptz, finished_at timestamptz, if_version bigint, state text,
      expires_at timestamptz);
    IF v_run.if_version = 0 THEN
      INSERT INTO {s}.runs (resource_id, id, thread_number, thread_id, agent, status, finish_reason, usage,
                            error, started_at, finished_at, version, state, expires_at)
        VALUES (p_owner, v_run.id, v_thread.number, p_thread, v_run.agent, v_run.status, v_run.finish_reason,
                v_run.usage, v_run.error, v_run.started_at, v_run.finished_at, 1, v_run.state,
                v_run.expires_at)
        ON CONFLICT (resource_id, id) DO NOTHING;
      IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'TM003', MESSAGE = v_run.id;
      END IF;
    ELSE
      UPDATE {s}.runs SET agent = v_run.agent, status = v_run.status, finish_reason = v_run.finish_reason,
          usage = v_run.usage, error = v_run.error, started_at = v_run.started_at,
          finished_at = v_run.finished_at, version = version + 1, state = v_run.state,
          expires_at = v_run.expires_at
        WHERE resource_id = p_owner AND id = v_run.id AND version = v_run.if_version
          AND thread_number = v_thread.number;
      IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'TM004', MESSAGE = v_run.id;
      END IF;
    END IF;
  END IF;

  IF p_memory IS NOT NULL THEN
    SELECT * INTO v_memory FROM json_to_record(p_memory) AS m (
      thread text, content text, if_version bigint, changed_by text, run_id text);
    v_number := 0;
    IF v_memory.thread = p_thread THEN
      v_number := v_thread.number;
    ELSIF v_memory.thread IS NOT NULL THEN
      SELECT number INTO v_number FROM {s}.threads
        WHERE resource_id = p_owner AND id = v_memory.thread FOR SHARE;
      IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'TM001', MESSAGE = v_memory.thread;
      END IF;
    END IF;
    SELECT coalesce(max(version), 0) INTO v_version FROM {s}.working_memory
      WHERE resource_id = p_owner AND thread_number = v_number;
    IF v_version <> v_memory.if_version THEN
      RAISE EXCEPTION USING ERRCODE = 'TM005', MESSAGE = v_version::text;
    END IF;
    INSERT INTO {s}.working_memory VALUES (p_owner, v_number, v_version + 1, v_memory.content,
                                           v_memory.changed_by, v_memory.run_id, p_now);
  END IF;

  thread := v_thread;
  created := v_created;
  seqs := v_seqs;
  times := CASE WHEN v_replaced THEN v_times END;
  RETURN NEXT;
END $$
"""
