-- migrate:up
-- To see how old the oldest transaction of other sessions is, which keeps vacuum from its work. Not every login may
-- grant it; without it the metric knows of the scheduler's own sessions only.
DO $$
BEGIN
    GRANT pg_read_all_stats TO carillon_scheduler;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'pg_read_all_stats is not granted to carillon_scheduler: a superuser may do it';
END
$$;

-- migrate:down
DO $$
BEGIN
    REVOKE pg_read_all_stats FROM carillon_scheduler;
EXCEPTION WHEN insufficient_privilege THEN
    NULL;
END
$$;
