"""Storage of the reference server: SQLAlchemy on SQLite (WAL). ``SqlStorage`` is the entrance."""

from obt_server.store.database import Database
from obt_server.store.operators import OperatorStore
from obt_server.store.quota import AgentQuota
from obt_server.store.schema import SchemaTooNew
from obt_server.store.sql import SqlStorage

__all__ = ["AgentQuota", "Database", "OperatorStore", "SchemaTooNew", "SqlStorage"]
