"""The history that the pages of tasks show."""

from libs.common.clock import SystemClock
from libs.common.postgres import Postgres
from services.ingest.history import History
from services.ingest.maintenance import Maintenance
from services.ingest.store import Store


async def prepared_history(postgres: Postgres) -> History:
    store = Store(postgres)
    maintenance = Maintenance(store, SystemClock(), retention_days=30)
    await maintenance.prepare()
    return History(store, maintenance, SystemClock())
