"""One limit over several processes and hosts.

`RedisLimit(client, name, limit)`: at most `limit` hold it at once, whichever process they are in; counted by Redis or Valkey. It is an
async context manager, and the `limit=` of every call of gatedcoro.
"""

from ._errors import GateUnavailable, LeaseLost
from ._limit import LimitStats
from ._redis import RedisLimit

__all__ = ["GateUnavailable", "LeaseLost", "LimitStats", "RedisLimit"]
