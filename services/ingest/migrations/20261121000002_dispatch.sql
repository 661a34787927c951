-- migrate:up
-- JSON of contracts.Timing: parts of a call, in milliseconds.
ALTER TABLE ingest.attempt ADD COLUMN timing bytea;

-- What each dispatcher last said of its circuit breaker for a host.
CREATE TABLE ingest.target (
    host text NOT NULL,
    replica text NOT NULL,
    state text NOT NULL,
    changed_at timestamptz NOT NULL,
    open_until timestamptz,
    PRIMARY KEY (host, replica)
);
ALTER TABLE ingest.target OWNER TO carillon_ingest;

-- migrate:down
DROP TABLE ingest.target;
ALTER TABLE ingest.attempt DROP COLUMN timing;
