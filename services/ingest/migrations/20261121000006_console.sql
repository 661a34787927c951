-- migrate:up
-- Who may use the console. No row is ever deleted, so that the audit log's names stay somebody's.
CREATE TABLE ingest.console_user (
    id uuid PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE,
    password text,  -- argon2id, in its encoded form; null until one is set
    role text NOT NULL CHECK (role IN ('viewer', 'operator', 'admin')),
    projects text[] NOT NULL,  -- empty: all
    epoch integer NOT NULL DEFAULT 1,  -- sessions of an earlier one are over
    created_at timestamptz NOT NULL,
    changed_at timestamptz NOT NULL,
    last_seen_at timestamptz,
    disabled_at timestamptz,
    CHECK (role <> 'admin' OR projects = '{}')
);
ALTER TABLE ingest.console_user OWNER TO carillon_ingest;

-- One-time links: to set a password, or (without a user) to make the first admin. Of a link only its SHA-256 is here.
CREATE TABLE ingest.console_link (
    digest bytea PRIMARY KEY,
    user_id uuid REFERENCES ingest.console_user,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL
);
ALTER TABLE ingest.console_link OWNER TO carillon_ingest;

-- What was done in the console. A row is written before the deed; `outcome` stays null when nobody came to write it.
CREATE TABLE ingest.audit (
    id uuid PRIMARY KEY,  -- a UUIDv7: newest first is the order of ids, backwards
    at timestamptz NOT NULL,
    actor text NOT NULL,
    project text,
    action text NOT NULL,
    object text NOT NULL,
    detail jsonb NOT NULL,
    address text NOT NULL,
    outcome text
);
ALTER TABLE ingest.audit OWNER TO carillon_ingest;
CREATE INDEX audit_at ON ingest.audit (at);

-- migrate:down
DROP TABLE ingest.audit, ingest.console_link, ingest.console_user;
