"""Puts millions of finished and waiting tasks into ingest's tables by SQL, as a month of work would have left them.

Uniform in time, but for what lists must also survive: one task with a URL and a label of its own, and a tenth of all
under a URL that nobody has used for three weeks.
"""

import time
from collections.abc import Callable

import asyncpg

PROJECT = "default"
CHUNK = 500_000
NEEDLE_URL, NEEDLE_LABEL = "https://needle.example.com/", ("needle", "1")
OLD_URL = "https://old.example.com/"

_QUICK = ("SET synchronous_commit = off", "SET maintenance_work_mem = '512MB'", "SET work_mem = '128MB'")
_INDEXES = """
    SELECT indexrelid::regclass::text AS name, pg_get_indexdef(indexrelid) AS definition
    FROM pg_index WHERE indrelid = 'ingest.task'::regclass AND NOT indisprimary
"""
# $1 the first number, $2 the last, $3 how many there will be.
_ROWS = """
    INSERT INTO ingest.task (id, project, state, state_order, state_at, reason, accepted_generation, created_at, due_at,
                             fingerprint, labels, call, url, method, last_order, last_attempt, first_order)
    SELECT gen_random_uuid(), 'default', state, 1, CASE WHEN state IN ('scheduled', 'retrying') THEN due_at
               ELSE least(due_at, now()) + interval '1 second' END, '', 1, created_at, due_at, md5(n::text),
           jsonb_build_object('order', n::text, 'customer', (n % 10007)::text)
               || CASE WHEN n % 2 = 0 THEN '{"env": "prod"}'::jsonb ELSE '{}' END
               || CASE WHEN n = $3::bigint / 3 THEN '{"needle": "1"}'::jsonb ELSE '{}' END,
           convert_to(format('{"url":"%s","body":"%s"}', url, repeat('abcdefgh', 25)), 'UTF8'), url, 'POST', 0, 0, 0
    FROM (
        SELECT n, state, created_at,
               CASE WHEN state = 'scheduled' AND s < 0.998 THEN now() + d * interval '30 days'
                    WHEN d < 0.7 THEN created_at
                    WHEN d < 0.9 THEN created_at + (d - 0.7) * 5 * interval '1 day'
                    ELSE created_at + (d - 0.9) * 10 * interval '30 days' END AS due_at,
               CASE WHEN n = $3::bigint / 3 THEN 'https://needle.example.com/' || n
                    WHEN n < $3::bigint * 0.3 AND n % 3 = 0 THEN 'https://old.example.com/' || n
                    ELSE format('https://host%s.example.com/hooks/%s/%s', n % 20, n % 1000, n) END AS url
        FROM (
            SELECT n, random() AS d, random() AS s,
                   now() - interval '30 days' * (1 - n / $3::bigint::float8) AS created_at,
                   CASE WHEN r < 0.950 THEN 'succeeded' WHEN r < 0.960 THEN 'failed' WHEN r < 0.965 THEN 'cancelled'
                        WHEN r < 0.968 THEN 'expired' WHEN r < 0.9681 THEN 'parked' WHEN r < 0.970 THEN 'retrying'
                        ELSE 'scheduled' END AS state
            FROM (SELECT n, random() AS r FROM generate_series($1::bigint, $2::bigint) AS n) AS numbers
        ) AS drawn
    ) AS shaped
"""
_LABELS = """
    INSERT INTO ingest.task_label (project, name, value, created_at, id)
    SELECT project, label.key, label.value, created_at, id FROM ingest.task_{n}, jsonb_each_text(labels) AS label
"""


async def fill(url: str, rows: int, say: Callable[[str], None] = print) -> None:
    """Empty both tables first; indexes are made after the rows, and everything is vacuumed."""
    begun = time.monotonic()
    connection = await asyncpg.connect(url, command_timeout=3600)
    try:
        for statement in _QUICK:
            await connection.execute(statement)
        await connection.execute("TRUNCATE ingest.task, ingest.task_label")
        await connection.execute("ALTER TABLE ingest.task DISABLE TRIGGER USER")
        indexes = await connection.fetch(_INDEXES)
        for index in indexes:
            await connection.execute(f"DROP INDEX {index['name']}")
        await connection.execute("ALTER TABLE ingest.task_label DROP CONSTRAINT task_label_pkey")
        for first in range(1, rows + 1, CHUNK):
            await connection.execute(_ROWS, first, min(first + CHUNK - 1, rows), rows)
        say(f"rows       {time.monotonic() - begun:.0f} s")
        for n in range(8):
            await connection.execute(_LABELS.format(n=n))
        say(f"labels     {time.monotonic() - begun:.0f} s")
        for index in indexes:
            await connection.execute(index["definition"].replace(" ON ONLY ", " ON "))
        await connection.execute("ALTER TABLE ingest.task_label ADD PRIMARY KEY (project, name, value, created_at, id)")
        await connection.execute("ALTER TABLE ingest.task ENABLE TRIGGER USER")
        await connection.execute("VACUUM ANALYZE ingest.task, ingest.task_label")
        say(f"indexes    {time.monotonic() - begun:.0f} s")
    finally:
        await connection.close()
