-- migrate:up
-- So far ahead of the truth `leased_until` is written of a command with conditions that the release before this one
-- does not know (services/ingest/store_bulk.py): to it, the command is another's for good.
ALTER TABLE ingest.bulk ADD COLUMN ahead interval NOT NULL DEFAULT '0';
CREATE INDEX bulk_project ON ingest.bulk (project, id);

-- migrate:down
DROP INDEX ingest.bulk_project;
ALTER TABLE ingest.bulk DROP COLUMN ahead;
