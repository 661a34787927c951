"""The SQL of the runbooks is SQL that PostgreSQL takes, on the tables as they are."""

import re

import asyncpg
import pytest

from tests.conftest import ROOT

STATEMENTS = {
    f"{path.name} {number}": statement
    for path in sorted((ROOT / "docs" / "runbooks").glob("*.md"))
    for number, statement in enumerate(re.findall(r"^```sql\n(.*?)^```$", path.read_text(), re.M | re.S), 1)
}


@pytest.mark.parametrize("name", STATEMENTS)
async def test_postgres_takes_the_statement(name: str, migrated_postgres_url: str) -> None:
    connection = await asyncpg.connect(migrated_postgres_url)
    try:
        await connection.fetch(STATEMENTS[name])
    finally:
        await connection.close()
