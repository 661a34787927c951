-- migrate:up
-- A cancel is remembered under an id that anybody may name, so a tombstone covers rows of its own project only.
-- The command is the one that made it, or the newest that its row had: a late copy of it must not touch a redrive.
-- Both are NULL in tombstones of the release before this one, which knew no commands.
ALTER TABLE scheduler.task_done ADD COLUMN project text, ADD COLUMN command_id uuid;

-- migrate:down
ALTER TABLE scheduler.task_done DROP COLUMN project, DROP COLUMN command_id;
