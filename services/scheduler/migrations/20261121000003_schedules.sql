-- migrate:up
-- A deleted schedule stays as a tombstone, so that a late copy of its creation does not bring it back.
CREATE TABLE scheduler.schedule (
    id uuid PRIMARY KEY,
    project text NOT NULL,
    name text NOT NULL,
    revision integer NOT NULL,
    status text NOT NULL CHECK (status IN ('active', 'paused', 'ended', 'deleted')),
    command_id uuid NOT NULL,
    created_at timestamptz NOT NULL,
    changed_at timestamptz NOT NULL,
    next_at timestamptz CHECK ((next_at IS NOT NULL) = (status = 'active')),
    schedule bytea NOT NULL,
    UNIQUE (project, name)
);
ALTER TABLE scheduler.schedule OWNER TO carillon_scheduler;
CREATE INDEX schedule_next_at ON scheduler.schedule (next_at) WHERE status = 'active';

-- migrate:down
DROP TABLE scheduler.schedule;
