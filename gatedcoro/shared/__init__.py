"""One limit over several processes and hosts.

`RedisLimit(client, name, limit)` and `PostgresLimit(client, name, limit)`: at most `limit` hold it at once, whichever process they are in;
counted by Redis or Valkey, or by PostgreSQL. It is an async context manager, and the `limit=` of every call of gatedcoro.
"""

from ._errors import GateUnavailable, LeaseLost
from ._limit import LimitStats
from ._postgres import PostgresLimit
from ._redis import RedisLimit

__all__ = ["GateUnavailable", "LeaseLost", "LimitStats", "PostgresLimit", "RedisLimit"]
