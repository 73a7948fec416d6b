"""Members in the store: the ids of the live workers."""

from __future__ import annotations

from gearhorn.store.connection import Connection


class Members:
    """The members of one namespace."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def join(self, member: str) -> None:
        """Add a member; raises ``StoreError``."""
        await self._connection.pipeline([("SADD", self._connection.key("members"), member)])

    async def leave(self, member: str) -> None:
        """Remove a member; raises ``StoreError``."""
        await self._connection.pipeline([("SREM", self._connection.key("members"), member)])
