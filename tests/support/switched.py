"""Two stores, of which one is the primary and the other its replica, behind one address."""

from __future__ import annotations

import time
from collections.abc import Iterator

import redis

from support.servers import Redis
from support.trial import Proxy

CATCHES_UP_S = 20.0
PAUSE_MS = 120_000  # of the writes: longer than a switch takes, which ends it


class SwitchedStore:
    """Stands in a cluster for its store. What is killed, frozen and restarted is the primary."""

    def __init__(self, *arguments: str) -> None:
        self._primary, self._replica = Redis(*arguments), Redis(*arguments)
        self._proxy: Proxy | None = None

    @property
    def port(self) -> int:
        """Where the primary is found, whichever it is."""
        assert self._proxy is not None
        return int(self._proxy.port)

    @property
    def address(self) -> str:
        """HOST:PORT of that."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """`redis://HOST:PORT/0` of that."""
        return f"redis://{self.address}/0"

    def start(self) -> SwitchedStore:
        """Start both."""
        self._primary.start()
        self._replica.start()
        self._proxy = Proxy(self._primary.address)
        self._follow(self._replica, self._primary)
        return self

    def stop(self) -> None:
        """Stop both."""
        if self._proxy is not None:
            self._proxy.close()
        self._primary.stop()
        self._replica.stop()

    def kill(self) -> None:
        """SIGKILL."""
        self._primary.kill()

    def restart(self) -> SwitchedStore:
        """Start the primary again."""
        self._primary.restart()
        return self

    def freeze(self) -> None:
        """SIGSTOP."""
        self._primary.freeze()

    def thaw(self) -> None:
        """SIGCONT."""
        self._primary.thaw()

    def configure(self, name: str, value: object) -> None:
        """CONFIG SET of the primary."""
        with self._client(self._primary) as client:
            client.config_set(name, value)

    def forget_connections(self) -> int:
        """Carry nothing more on the connections there are, and tell nobody; return their number."""
        assert self._proxy is not None
        return self._proxy.forget()

    def switch(self) -> Iterator[float]:
        """Make the replica the primary as an operator does who plans it, and nothing is lost:
        writes wait until the replica has all. Yields the seconds until it wants to go on; raises
        ``TimeoutError`` where the replica does not catch up."""
        assert self._proxy is not None
        until_s = time.monotonic() + CATCHES_UP_S
        with self._client(self._primary) as primary, self._client(self._replica) as replica:
            while not self._is_following(replica):
                if time.monotonic() > until_s:
                    raise TimeoutError("the replica does not catch up")
                yield 0.1
            primary.execute_command("CLIENT", "PAUSE", PAUSE_MS, "WRITE")
            try:
                while not _has_all(replica, primary):
                    if time.monotonic() > until_s:
                        raise TimeoutError("the replica does not catch up")
                    yield 0.01
                replica.execute_command("REPLICAOF", "NO", "ONE")
                self._proxy.move(self._replica.address)
                self._follow(self._primary, self._replica)  # who is still there is told READONLY
            finally:
                primary.execute_command("CLIENT", "UNPAUSE")
        self._primary, self._replica = self._replica, self._primary

    def _is_following(self, replica: redis.Redis) -> bool:
        """Whether a replica has its primary's data, and in its own file too."""
        told = replica.info("replication")
        file = replica.info("persistence")
        is_written = not (file["aof_rewrite_in_progress"] or file["aof_rewrite_scheduled"])
        return told.get("master_link_status") == "up" and is_written

    def _follow(self, replica: Redis, primary: Redis) -> None:
        with self._client(replica) as client:
            client.execute_command("REPLICAOF", "127.0.0.1", str(primary.port))

    def _client(self, server: Redis) -> redis.Redis:
        return redis.Redis.from_url(server.url, client_name="operator", socket_timeout=10)


def _has_all(replica: redis.Redis, primary: redis.Redis) -> bool:
    return _offset(replica, "slave_repl_offset") >= _offset(primary, "master_repl_offset")


def _offset(client: redis.Redis, name: str) -> int:
    return int(client.info("replication")[name])
