-- migrate:up
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'carillon_scheduler') THEN
        CREATE ROLE carillon_scheduler NOLOGIN;
    END IF;
END
$$;
GRANT carillon_scheduler TO CURRENT_USER;
CREATE SCHEMA IF NOT EXISTS scheduler;
GRANT USAGE, CREATE ON SCHEMA scheduler TO carillon_scheduler;
ALTER SCHEMA scheduler OWNER TO carillon_scheduler;

-- A row is a task that waits for its time. It leaves when it fires, so the table holds the future only.
CREATE TABLE scheduler.task (
    id uuid PRIMARY KEY,
    generation integer NOT NULL,
    attempt integer NOT NULL,
    hop integer NOT NULL,
    due_at timestamptz NOT NULL,
    expires_at timestamptz,
    shard smallint NOT NULL CHECK (shard BETWEEN 0 AND 1023),
    size integer NOT NULL,
    project text NOT NULL,
    fingerprint text NOT NULL,
    command_id uuid,
    message bytea NOT NULL
) WITH (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000,
        autovacuum_vacuum_cost_delay = 0);
-- The message is JSON that is read once: compressing it would cost more than it saves on small tasks.
ALTER TABLE scheduler.task ALTER COLUMN message SET STORAGE EXTERNAL;
ALTER TABLE scheduler.task OWNER TO carillon_scheduler;
CREATE INDEX task_due_at ON scheduler.task (due_at);

-- A tombstone outlives its row, so that a late redelivery of what has fired does not fire again.
CREATE TABLE scheduler.task_done (
    id uuid NOT NULL,
    generation integer NOT NULL,
    attempt integer NOT NULL,
    hop integer NOT NULL,
    cause text NOT NULL CHECK (cause IN ('fired', 'expired', 'cancelled', 'noted')),
    fingerprint text NOT NULL,
    day date NOT NULL DEFAULT (now() AT TIME ZONE 'UTC')::date
) PARTITION BY RANGE (day);
ALTER TABLE scheduler.task_done OWNER TO carillon_scheduler;
CREATE INDEX task_done_id ON scheduler.task_done (id);

-- migrate:down
DROP TABLE scheduler.task_done;
DROP TABLE scheduler.task;
