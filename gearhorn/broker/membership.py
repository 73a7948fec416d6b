"""Membership: this worker's name among its peers, from its start to a clean stop."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import socket

import structlog

from gearhorn.errors import StoreError
from gearhorn.store.members import Members
from gearhorn.timing import Backoff

log = structlog.get_logger(__name__)


def new_id() -> str:
    """Return ``HOST-PID-RANDOM``, never used before (PROTOCOL §7)."""
    host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname()) or "host"
    return f"{host[:150]}-{os.getpid()}-{secrets.token_hex(4)}"


class Membership:
    """One member. ``peers`` are the others, as of the last change that this member made."""

    def __init__(self, members: Members, member_id: str) -> None:
        self.id = member_id
        self.peers: frozenset[str] = frozenset()
        self._members = members
        self._asked = False  # to join: from then on the store may know this member

    async def join(self) -> None:
        """Join; wait for the store as long as it takes."""
        backoff = Backoff()
        said = False
        while True:
            self._asked = True
            try:
                await self._members.join(self.id)
            except StoreError as error:
                if not said:
                    said = True
                    log.warning("store is not there; trying again for ever", error=str(error))
                await asyncio.sleep(backoff.next_s())
            else:
                log.info("joined", member=self.id)
                return

    async def leave(self) -> None:
        """Leave, if the store can be told."""
        if not self._asked:
            return
        try:
            await self._members.leave(self.id)
        except StoreError as error:
            log.warning("left without telling the store", error=str(error))
        else:
            log.info("left", member=self.id)

    def saw(self, members: frozenset[str]) -> frozenset[str]:
        """Note who is a member now; return the peers among them."""
        self.peers = members - {self.id}
        return self.peers
