-- migrate:up
-- Why a breaker is open. Null: closed, or told by the release before this one.
ALTER TABLE ingest.target ADD COLUMN reason text;

-- What stands in parking together: of one queue, for one cause. A cause may be long, so a digest stands for the two.
ALTER TABLE ingest.parked ADD COLUMN cause_digest text
    GENERATED ALWAYS AS (md5(origin || E'\x1f' || cause)) STORED;
CREATE INDEX parked_cause ON ingest.parked (project, cause_digest, parked_at, message_id);

-- One row per redrive or drop of a whole cause (services/ingest/clearing.py). `project` null: of messages of no project.
-- `after_*` is the last message looked at: whichever replica goes on begins behind it.
CREATE TABLE ingest.clearing (
    id uuid PRIMARY KEY,  -- a UUIDv7: oldest first is the order of ids
    project text,
    action text NOT NULL,
    cause_digest text NOT NULL,
    origin text NOT NULL,
    cause text NOT NULL,
    reason text NOT NULL,
    matched bigint NOT NULL,
    submitted_at timestamptz NOT NULL,
    submitted_by text NOT NULL,
    after_parked_at timestamptz,
    after_message_id text,
    done bigint NOT NULL DEFAULT 0,
    left_alone bigint NOT NULL DEFAULT 0,
    leased_until timestamptz,
    finished_at timestamptz
);
ALTER TABLE ingest.clearing OWNER TO carillon_ingest;
CREATE INDEX clearing_open ON ingest.clearing (id) WHERE finished_at IS NULL;
CREATE INDEX clearing_finished_at ON ingest.clearing (finished_at) WHERE finished_at IS NOT NULL;

-- migrate:down
DROP TABLE ingest.clearing;
DROP INDEX ingest.parked_cause;
ALTER TABLE ingest.parked DROP COLUMN cause_digest;
ALTER TABLE ingest.target DROP COLUMN reason;
