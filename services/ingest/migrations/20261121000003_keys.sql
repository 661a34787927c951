-- migrate:up
-- API keys. Of a key only its SHA-256 is here, which is enough for 178 random bits. No row is ever deleted.
CREATE TABLE ingest.key (
    id uuid PRIMARY KEY,  -- a UUIDv7: newest first is the order of ids, backwards
    project text NOT NULL,
    name text NOT NULL,
    digest bytea NOT NULL UNIQUE,
    scopes text[] NOT NULL,
    per_s double precision,
    burst integer,
    created_at timestamptz NOT NULL,
    expires_at timestamptz,
    revoked_at timestamptz,
    replaced_by uuid,
    last_used_at timestamptz,
    -- By Postgres' clock. Each replica asks once a second what has changed; last_used_at does not count.
    changed_at timestamptz NOT NULL
);
ALTER TABLE ingest.key OWNER TO carillon_ingest;
CREATE INDEX key_project ON ingest.key (project, id);
CREATE INDEX key_changed_at ON ingest.key (changed_at);

-- What holds for a project's calls to one host. The dispatchers' copy in Redis is made from this.
CREATE TABLE ingest.target_rule (
    project text COLLATE "C" NOT NULL,
    host text COLLATE "C" NOT NULL,
    is_paused boolean NOT NULL,
    per_s double precision,
    burst integer NOT NULL,
    command_id uuid NOT NULL,
    changed_at timestamptz NOT NULL,
    changed_by text NOT NULL,
    PRIMARY KEY (project, host)
);
ALTER TABLE ingest.target_rule OWNER TO carillon_ingest;

-- A project without a row signs with version 1.
CREATE TABLE ingest.signing_rule (
    project text PRIMARY KEY,
    version integer NOT NULL,
    previous_until timestamptz,
    command_id uuid NOT NULL,
    changed_at timestamptz NOT NULL,
    changed_by text NOT NULL
);
ALTER TABLE ingest.signing_rule OWNER TO carillon_ingest;

-- One row. Whoever changes a rule locks it, and takes a command id above the one that is here: so a reader who sees
-- this id sees every rule up to it (services/ingest/store_control.py).
CREATE TABLE ingest.control (
    is_the_row boolean PRIMARY KEY CHECK (is_the_row),
    command_id uuid NOT NULL,
    published_at timestamptz NOT NULL
);
ALTER TABLE ingest.control OWNER TO carillon_ingest;

-- migrate:down
DROP TABLE ingest.control, ingest.signing_rule, ingest.target_rule, ingest.key;
