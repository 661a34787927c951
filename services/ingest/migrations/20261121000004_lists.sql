-- migrate:up
-- What lists are filtered by. `url` and `method` are of the call, `url` its first 2,000 bytes at most (an index entry
-- cannot be longer than 2,700); null where nothing was accepted yet, or all was purged. The payloads and labels of
-- generations up to `purged_generation` are erased, and events that come later do not bring them back.
ALTER TABLE ingest.task
    ADD COLUMN url text COLLATE "C",
    ADD COLUMN method text,
    ADD COLUMN schedule text,
    ADD COLUMN purged_generation integer NOT NULL DEFAULT 0;

-- One row per label of each accepted task, newest last within a label. Triggers keep it, not the service: so it is
-- right whichever release writes, and whatever changes or deletes a task.
CREATE TABLE ingest.task_label (
    project text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    value text COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL,
    id uuid NOT NULL,
    PRIMARY KEY (project, name, value, created_at, id)
);
ALTER TABLE ingest.task_label OWNER TO carillon_ingest;

CREATE FUNCTION ingest.add_labels() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO ingest.task_label (project, name, value, created_at, id)
        SELECT fresh.project, label.key, label.value, fresh.created_at, fresh.id
        FROM fresh, jsonb_each_text(fresh.labels) AS label ORDER BY 1, 2, 3, 4, 5
        ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$$;
-- `created_at` and `labels` change when an event comes out of order, or a purge erases the labels: seldom, so row by row.
CREATE FUNCTION ingest.move_labels() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM ingest.task_label USING jsonb_each_text(OLD.labels) AS label
        WHERE task_label.project = OLD.project AND task_label.name = label.key AND task_label.value = label.value
          AND task_label.created_at = OLD.created_at AND task_label.id = OLD.id;
    INSERT INTO ingest.task_label (project, name, value, created_at, id)
        SELECT NEW.project, label.key, label.value, NEW.created_at, NEW.id FROM jsonb_each_text(NEW.labels) AS label
        ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$$;
CREATE FUNCTION ingest.drop_labels() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM ingest.task_label USING gone, jsonb_each_text(gone.labels) AS label
        WHERE task_label.project = gone.project AND task_label.name = label.key AND task_label.value = label.value
          AND task_label.created_at = gone.created_at AND task_label.id = gone.id;
    RETURN NULL;
END
$$;
-- For the release before this one, which runs beside it for a while and knows no `url`. PostgreSQL reads no NUL, not
-- even in another field.
CREATE FUNCTION ingest.read_call(call bytea, OUT url text, OUT method text) LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    read json;
BEGIN
    read := replace(convert_from(call, 'UTF8'), '\u0000', '')::json;
    url := coalesce(read ->> 'url', '');
    url := CASE WHEN octet_length(url) <= 2000 THEN url ELSE left(url, 500) END;
    method := coalesce(read ->> 'method', 'POST');
EXCEPTION WHEN data_exception THEN
    url := '';
    method := '';
END
$$;
CREATE FUNCTION ingest.fill_url() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    SELECT told.url, told.method INTO NEW.url, NEW.method FROM ingest.read_call(NEW.call) AS told;
    RETURN NEW;
END
$$;
ALTER FUNCTION ingest.add_labels() OWNER TO carillon_ingest;
ALTER FUNCTION ingest.move_labels() OWNER TO carillon_ingest;
ALTER FUNCTION ingest.drop_labels() OWNER TO carillon_ingest;
ALTER FUNCTION ingest.fill_url() OWNER TO carillon_ingest;
ALTER FUNCTION ingest.read_call(bytea) OWNER TO carillon_ingest;

CREATE TRIGGER fill_url BEFORE INSERT OR UPDATE ON ingest.task
    FOR EACH ROW WHEN (NEW.url IS NULL AND octet_length(NEW.call) > 0) EXECUTE FUNCTION ingest.fill_url();
CREATE TRIGGER add_labels AFTER INSERT ON ingest.task
    REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION ingest.add_labels();
CREATE TRIGGER move_labels AFTER UPDATE ON ingest.task
    FOR EACH ROW WHEN ((OLD.labels, OLD.created_at) IS DISTINCT FROM (NEW.labels, NEW.created_at))
    EXECUTE FUNCTION ingest.move_labels();
CREATE TRIGGER drop_labels AFTER DELETE ON ingest.task
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION ingest.drop_labels();

-- One row per cancel or redrive of many (services/ingest/bulk.py). `created_at` and `id` of the last task looked at
-- are in `after_*`: whichever replica goes on begins behind it.
CREATE TABLE ingest.bulk (
    id uuid PRIMARY KEY,  -- a UUIDv7: oldest first is the order of ids
    project text NOT NULL,
    action text NOT NULL,
    filter jsonb NOT NULL,
    matched bigint NOT NULL,
    is_exact boolean NOT NULL,
    submitted_at timestamptz NOT NULL,
    submitted_by text NOT NULL,
    after_created_at timestamptz,
    after_id uuid,
    done bigint NOT NULL DEFAULT 0,
    left_alone bigint NOT NULL DEFAULT 0,
    unknown bigint NOT NULL DEFAULT 0,
    leased_until timestamptz,
    finished_at timestamptz
);
ALTER TABLE ingest.bulk OWNER TO carillon_ingest;
CREATE INDEX bulk_open ON ingest.bulk (id) WHERE finished_at IS NULL;
CREATE INDEX bulk_finished_at ON ingest.bulk (finished_at) WHERE finished_at IS NOT NULL;

-- Null where the message cannot be read, or was stored by the release before this one.
ALTER TABLE ingest.parked ADD COLUMN project text, ADD COLUMN task_id uuid;
CREATE INDEX parked_project ON ingest.parked (project, parked_at, message_id);
CREATE INDEX parked_task ON ingest.parked (task_id) WHERE task_id IS NOT NULL;

-- migrate:down
DROP TABLE ingest.bulk;
DROP INDEX ingest.parked_project, ingest.parked_task;
ALTER TABLE ingest.parked DROP COLUMN project, DROP COLUMN task_id;
DROP TRIGGER fill_url ON ingest.task;
DROP TRIGGER add_labels ON ingest.task;
DROP TRIGGER move_labels ON ingest.task;
DROP TRIGGER drop_labels ON ingest.task;
DROP FUNCTION ingest.fill_url(), ingest.add_labels(), ingest.move_labels(), ingest.drop_labels(),
    ingest.read_call(bytea);
DROP TABLE ingest.task_label;
ALTER TABLE ingest.task DROP COLUMN url, DROP COLUMN method, DROP COLUMN schedule, DROP COLUMN purged_generation;
