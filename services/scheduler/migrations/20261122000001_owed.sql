-- migrate:up
-- What the history must still hear of tasks that a change of the schedule took back: written with the change, emptied
-- once it is told. The release before this one tells before it commits, and leaves the column alone: what is owed when
-- it takes a redelivery is told with the next change of the schedule by this one.
ALTER TABLE scheduler.schedule ADD COLUMN owed bytea[] NOT NULL DEFAULT '{}';

-- migrate:down
ALTER TABLE scheduler.schedule DROP COLUMN owed;
