-- migrate:up
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'carillon_ingest') THEN
        CREATE ROLE carillon_ingest NOLOGIN;
    END IF;
END
$$;
GRANT carillon_ingest TO CURRENT_USER;
CREATE SCHEMA IF NOT EXISTS ingest;
GRANT USAGE, CREATE ON SCHEMA ingest TO carillon_ingest;
ALTER SCHEMA ingest OWNER TO carillon_ingest;

-- One row per task, projected from carillon.events. Each group of columns is a register of its own that only moves up
-- (services/ingest/projection.py says by which rule), so events may come in any order and any number of times.
CREATE TABLE ingest.task (
    id uuid PRIMARY KEY,
    project text NOT NULL,

    state text NOT NULL,
    state_order bigint NOT NULL,
    state_at timestamptz NOT NULL,
    reason text COLLATE "C" NOT NULL,
    finished_at timestamptz GENERATED ALWAYS AS
        (CASE WHEN state IN ('succeeded', 'failed', 'cancelled', 'expired') THEN state_at END) STORED,

    -- Null until TaskAccepted has come.
    accepted_generation integer NOT NULL,
    created_at timestamptz,
    due_at timestamptz,
    expires_at timestamptz,
    fingerprint text,
    labels jsonb,
    call bytea,

    -- Null until an AttemptFinished has come.
    last_order bigint NOT NULL,
    last_attempt integer NOT NULL,
    last_started_at timestamptz,
    last_status_code integer,
    last_error text,
    last_duration_ms bigint,

    first_order bigint NOT NULL,
    first_attempt_at timestamptz,
    lateness_ms bigint
) PARTITION BY HASH (id);
-- The call is JSON that is read seldom: compressing it would cost more than it saves on small tasks.
ALTER TABLE ingest.task ALTER COLUMN call SET STORAGE EXTERNAL;
ALTER TABLE ingest.task OWNER TO carillon_ingest;

-- A row is written about three times; the free space lets the second stay on its page (a HOT update).
DO $$
BEGIN
    FOR n IN 0..7 LOOP
        EXECUTE format('CREATE TABLE ingest.task_%s PARTITION OF ingest.task FOR VALUES WITH (MODULUS 8, REMAINDER %s)'
                       ' WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05)', n, n);
        EXECUTE format('ALTER TABLE ingest.task_%s OWNER TO carillon_ingest', n);
    END LOOP;
END
$$;
-- For the retention. Only a final state has a value here, so the updates before it stay HOT.
CREATE INDEX task_finished_at ON ingest.task (finished_at) WHERE finished_at IS NOT NULL;

-- One row per HTTP call. The partitions, one per day, are made and dropped by services/ingest/maintenance.py.
CREATE TABLE ingest.attempt (
    task_id uuid NOT NULL,
    generation integer NOT NULL,
    attempt integer NOT NULL,
    day date NOT NULL,
    hop integer NOT NULL,
    due_at timestamptz NOT NULL,
    started_at timestamptz NOT NULL,
    duration_ms bigint NOT NULL,
    outcome text NOT NULL,
    status_code integer,
    error text,
    error_detail text,
    next_attempt_at timestamptz,
    response_headers bytea NOT NULL,
    response_body bytea NOT NULL,
    replica text NOT NULL,
    PRIMARY KEY (task_id, generation, attempt, day)
) PARTITION BY RANGE (day);
ALTER TABLE ingest.attempt OWNER TO carillon_ingest;

-- Messages that no service could process, for a person.
CREATE TABLE ingest.parked (
    message_id text PRIMARY KEY,
    parked_at timestamptz NOT NULL,
    origin text NOT NULL,
    cause text NOT NULL,
    crashes integer NOT NULL,
    headers bytea NOT NULL,
    body bytea NOT NULL
);
ALTER TABLE ingest.parked OWNER TO carillon_ingest;
CREATE INDEX parked_at ON ingest.parked (parked_at);

-- migrate:down
DROP TABLE ingest.task, ingest.attempt, ingest.parked;
