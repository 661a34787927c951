-- migrate:up
-- Who is at work, by Postgres' clock. It divides the loading of the horizon; nothing else depends on it.
CREATE TABLE scheduler.replica (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    seen_at timestamptz NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0);
ALTER TABLE scheduler.replica OWNER TO carillon_scheduler;

-- migrate:down
DROP TABLE scheduler.replica;
