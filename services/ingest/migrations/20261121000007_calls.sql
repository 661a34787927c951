-- migrate:up
-- How many calls ended in each minute and hour, by outcome and by how long they took: counting the history itself would
-- read millions of rows. Written in the transaction that writes the attempts (services/ingest/calls.py).
CREATE TABLE ingest.calls (
    project text COLLATE "C" NOT NULL,
    host text COLLATE "C" NOT NULL,  -- '' for the whole project; a host has hours only
    every_s integer NOT NULL,        -- 60 or 3600
    at timestamptz NOT NULL,         -- when the minute or hour began
    succeeded integer NOT NULL,
    failed integer NOT NULL,
    retried integer NOT NULL,
    -- Counts by bucket, up to the highest that is not empty. Of first attempts, and of all.
    lateness integer[] NOT NULL,
    duration integer[] NOT NULL,
    PRIMARY KEY (project, host, every_s, at)
-- A row is written some dozen times a second while its minute lasts: room on its page keeps that a HOT update.
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE ingest.calls OWNER TO carillon_ingest;
CREATE INDEX calls_at ON ingest.calls (every_s, at);

CREATE FUNCTION ingest.added(these integer[], those integer[]) RETURNS integer[] LANGUAGE sql IMMUTABLE AS $$
    SELECT array(SELECT coalesce(this, 0) + coalesce(that, 0) FROM unnest(these, those) AS pair (this, that))
$$;
ALTER FUNCTION ingest.added(integer[], integer[]) OWNER TO carillon_ingest;

-- Raised by whatever the history is told of a project: pages that are open look here whether to look again.
CREATE TABLE ingest.change (
    project text COLLATE "C" PRIMARY KEY,
    number bigint NOT NULL
) WITH (fillfactor = 50);
ALTER TABLE ingest.change OWNER TO carillon_ingest;

-- The heartbeats: each process of the four services, and when it last said that it lives.
CREATE TABLE ingest.service (
    service text NOT NULL,
    replica text NOT NULL,
    version text NOT NULL,
    started_at timestamptz NOT NULL,
    seen_at timestamptz NOT NULL,
    vitals jsonb NOT NULL,
    PRIMARY KEY (service, replica)
);
ALTER TABLE ingest.service OWNER TO carillon_ingest;

-- migrate:down
DROP TABLE ingest.calls, ingest.change, ingest.service;
DROP FUNCTION ingest.added(integer[], integer[]);
