-- migrate:up
-- Apart from the columns and triggers, which take the table for themselves for an instant: while this goes on, some
-- minutes for ten million tasks, the history can be read, and what is to be written to it waits in its queue.

-- What was there before the triggers.
UPDATE ingest.task SET (url, method) = (SELECT told.url, told.method FROM ingest.read_call(call) AS told)
    WHERE url IS NULL AND octet_length(call) > 0;
INSERT INTO ingest.task_label (project, name, value, created_at, id)
    SELECT project, label.key, label.value, created_at, id
    FROM ingest.task, jsonb_each_text(labels) AS label WHERE created_at IS NOT NULL
    ON CONFLICT DO NOTHING;

-- How lists find their tasks: services/ingest/store_lists.py says which index serves what.
CREATE INDEX task_newest ON ingest.task (project, created_at, id);
CREATE INDEX task_state ON ingest.task (project, state, created_at, id);
CREATE INDEX task_due ON ingest.task (project, state, due_at) INCLUDE (created_at, id);
CREATE INDEX task_url ON ingest.task (project, url) INCLUDE (state, due_at, created_at, id);
CREATE INDEX task_schedule ON ingest.task (project, schedule, created_at, id) WHERE schedule IS NOT NULL;
-- Occurrences that a schedule caught up with: every other task is due no earlier than it was made.
CREATE INDEX task_made_late ON ingest.task (project, created_at, id) WHERE due_at < created_at;
CREATE INDEX task_purged ON ingest.task (id) WHERE purged_generation > 0;

-- migrate:down
DROP INDEX ingest.task_newest, ingest.task_state, ingest.task_due, ingest.task_url, ingest.task_schedule,
    ingest.task_made_late, ingest.task_purged;
