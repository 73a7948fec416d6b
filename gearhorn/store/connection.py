"""The connection to Redis or Valkey: pipelines, scripts, keys, and redis's errors made ours.

Law: runs on the event loop; every call ends in time or raises ``StoreError``.

==============================  =========  ====================================================
key (all under ``{NAMESPACE}``)  type       what
==============================  =========  ====================================================
``schema``                      string     layout of these keys; another number is refused
``version``                     string     counts every change of a subscription
``changes``                     zset       topic -> version of its last change, the newest 10,000
``floor``                       string     version up to which ``changes`` has forgotten
``run``                         string     run id of the server that last served this data
``clock``                       string     ms that the members have counted together, see below
``members``                     hash       id -> renewals, version it knows, lease in ms
``topics``                      zset       topics that have subscriptions, all with score 0
``expiries``                    zset       topic NUL client_id -> reading of ``clock`` at its end
``draining``                    hash       queue -> id of the member that empties it
``clients:TOPIC``               set        client_ids subscribed to TOPIC
``options:TOPIC``               hash       client_id -> its options as JSON, where it has any
``drops:TOPIC``                 hash       client_id -> copies dropped by its backlog limit
``log:TOPIC``                   hash       the topic's log (``log.lua`` names the fields)
``messages:TOPIC``              stream     SEQUENCE-0 -> header, info and payload of a message
``lanes:TOPIC``                 hash       durable client_id -> "OWNER TERM POSITION"
``term``                        string     the last TERM that a lane was given
``durable``                     zset       topics that have lanes, all with score 0
``due``                         zset       topic that has a log -> reading of ``clock`` at which it
                                           is pruned
``logged:TOPIC``                zset       dedup key -> reading of ``clock`` when it was logged
``places:TOPIC``                hash       dedup key -> "SEQUENCE EPOCH"
``trouble:TOPIC NUL CLIENT``    hash       sequence -> failed attempts of a message, as JSON
``order:TOPIC NUL CLIENT``      zset       parked sequence -> itself
``parked:TOPIC NUL CLIENT``     hash       sequence parked or put back -> the message
``redrive:TOPIC NUL CLIENT``    zset       sequence put back -> itself
==============================  =========  ====================================================

Channels: ``events`` tells every member what happened to logs and lanes, ``done:PROCESS`` tells a
worker process which receivers have done with a message that a caller of its waits for.

``clock`` goes on as long as one member lives: each adds to what it last read what has passed on its
own monotonic clock, and the highest counts. No wall clock decides anything (PROTOCOL §7).

The braces put every key into one slot of a Redis Cluster, as the scripts need.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Sequence
from hashlib import sha1
from importlib import resources
from typing import Any

import hiredis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from gearhorn.errors import StartError, StoreError, StoreReadOnly
from gearhorn.store.refusals import refusal

WRITE_TIMEOUT_S = 1.5  # a change answers `unavailable:` within 2 s rather than hang
READ_TIMEOUT_S = 10.0  # a list of a million takes one second
SCHEMA = b"3"

Command = tuple[Any, ...]

_CODES = {
    "LOADING": BusyLoadingError,
    "CLUSTERDOWN": ClusterDownError,
    "MASTERDOWN": MasterDownError,
    "TRYAGAIN": TryAgainError,
    "READONLY": ReadOnlyError,
    "MOVED": MovedError,
    "ASK": AskError,
    "NOPERM": NoPermissionError,
    "OOM": OutOfMemoryError,
}


def _script(name: str) -> str:
    return resources.files(__package__).joinpath(f"{name}.lua").read_text("utf-8")


# what a script needs of others goes in front of it
_LOG, _VERSION = _script("log"), _script("version")
SCRIPTS = {
    "change": _LOG + _VERSION + _script("change"),
    "retain": _LOG + _VERSION + _script("retain"),
    "append": _LOG + _script("append"),
    "fetch": _LOG + _script("fetch"),
    "prune": _LOG + _script("prune"),
    **{
        name: _script(name)
        for name in ("member", "remove", "read", "acquire", "settle", "park", "note", "redrive")
    },
}
# as EVALSHA names them
SHA = {name: sha1(text.encode()).hexdigest() for name, text in SCRIPTS.items()}
_RUN_ID = re.compile(rb"^run_id:(\w+)", re.M)


class _Packing:
    """Has commands packed in C: redis-py's asyncio connections do it in Python, which was 14 % of
    a worker's time when it delivers."""

    def pack_command(self, name: str, *arguments: Any) -> list[bytes]:
        """Return a command as it goes to the server; ``name`` may be two words."""
        return [hiredis.pack_command((*name.split(), *arguments))]


class Connection:
    """A pool of connections to one store; ``url`` is ``redis://``, ``rediss://`` or ``unix://``.

    Raises ``StartError`` when the URL is not one.
    """

    def __init__(self, url: str, namespace: str) -> None:
        # Of the server that was last connected to. A connection to another one, or to one that
        # was restarted, changes it before the first command goes there.
        self.run_id = ""
        self._prefix = f"{{{namespace}}}:"
        options: dict[str, Any] = {} if url.startswith("unix:") else {"socket_keepalive": True}
        try:
            self._redis = redis.asyncio.Redis.from_url(
                url,
                socket_timeout=READ_TIMEOUT_S,
                socket_connect_timeout=WRITE_TIMEOUT_S,
                retry=Retry(NoBackoff(), 1),  # once, on a connection that had died meanwhile
                redis_connect_func=self._connected,
                **options,
            )
            pool = self._redis.connection_pool
            pool.connection_class = type(
                "Connection", (_Packing, pool.connection_class), {"__module__": __name__}
            )
            self._check_options()
        except (ValueError, TypeError, OSError) as error:
            shown = re.sub(r"//[^@/]*@", "//...@", url)  # a password is nobody's business
            raise StartError(
                f"--redis: expected a redis://, rediss:// or unix:// URL, got {shown!r}: {error}"
            ) from None

    def _check_options(self) -> None:
        """Raise what a first connection would, were it only for the URL."""
        pool = self._redis.connection_pool
        # TypeError: an option that there is not. (redis-py leaves this method untyped.)
        pool.make_connection()  # type: ignore[no-untyped-call]
        str(pool.connection_kwargs.get("host", "")).encode("idna")
        for key, value in pool.connection_kwargs.items():
            if key in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile") and value:
                os.stat(value)

    async def _connected(self, connection: Any) -> None:
        await connection.on_connect()
        await connection.send_command("INFO", "server")
        match = _RUN_ID.search(await connection.read_response(disable_decoding=True))
        self.run_id = match[1].decode() if match else ""

    def key(self, *parts: str) -> str:
        """Return the name of a key of this namespace."""
        return self._prefix + ":".join(parts)

    def script(self, name: str, keys: Sequence[str], *arguments: Any) -> Command:
        """Return the command that runs a script."""
        return ("EVALSHA", SHA[name], len(keys), *keys, *arguments)

    def subscriber(self) -> redis.asyncio.client.PubSub:
        """Return what listens to channels, on a connection of its own."""
        return self._redis.pubsub()

    def make(self) -> Any:
        """Return a connection of redis's that is not connected, and has no time-outs of its own."""
        pool = self._redis.connection_pool
        return pool.connection_class(**{**pool.connection_kwargs, "socket_timeout": None})

    async def pipeline(
        self,
        commands: Sequence[Command],
        timeout_s: float = WRITE_TIMEOUT_S,
        atomic: bool = False,
    ) -> list[Any]:
        """Run commands in one round trip and return their replies in order.

        Raises ``StoreError`` if any failed; the others may have been carried out.
        """
        replies = await self.each(commands, timeout_s, atomic)
        for reply in replies:
            if isinstance(reply, StoreError):
                raise reply
        return replies

    async def each(
        self,
        commands: Sequence[Command],
        timeout_s: float = WRITE_TIMEOUT_S,
        atomic: bool = False,
    ) -> list[Any]:
        """Like ``pipeline``, with a ``StoreError`` in the place of each reply that failed.

        Raises ``StoreError`` if it is not known which were carried out.
        """
        try:
            async with asyncio.timeout(timeout_s):
                replies = await self._run(commands, atomic)
                unknown = [at for at, one in enumerate(replies) if isinstance(one, NoScriptError)]
                if unknown:  # a new or restarted store
                    for text in SCRIPTS.values():
                        await self._redis.script_load(text)
                    again = await self._run([commands[at] for at in unknown], atomic)
                    for at, reply in zip(unknown, again, strict=True):
                        replies[at] = reply
        except (RedisError, OSError) as error:
            raise ours(error, timeout_s) from error
        return [ours(one, timeout_s) if isinstance(one, Exception) else one for one in replies]

    async def read(
        self, commands: Sequence[Command], timeout_s: float = READ_TIMEOUT_S
    ) -> list[Any]:
        """Like ``pipeline``, for commands that only read: the replies are a primary's.

        The server is asked for its role behind the reads, in the same round trip: one that was
        demoted answers reads like before, and would serve old lists without an end.
        Raises ``StoreReadOnly`` where it is a replica.
        """
        *replies, role = await self.pipeline([*commands, ("ROLE",)], timeout_s)
        if role[0] not in (b"master", "master"):
            raise StoreReadOnly(f"READONLY the server's role is {role[0]!r}")
        return replies

    def channel(self, *parts: str) -> str:
        """Return the name of a channel of this namespace: unlike keys, channels are shared by all
        databases of a server, so the name says which."""
        database = self._redis.connection_pool.connection_kwargs.get("db") or 0
        return f"{self.key(*parts)}@{database}"

    async def _run(self, commands: Sequence[Command], atomic: bool) -> list[Any]:
        async with self._redis.pipeline(transaction=atomic) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            return await pipe.execute(raise_on_error=False)

    async def check(self) -> None:
        """Make the store ours, or refuse it.

        Raises ``StartError`` if another release's layout is in it or it evicts keys,
        ``StoreError`` if it does not answer.
        """
        _, schema, memory = await self.pipeline(
            [
                ("SET", self.key("schema"), SCHEMA, "NX"),
                ("GET", self.key("schema")),
                ("INFO", "memory"),
            ]
        )
        if schema != SCHEMA:
            raise StartError(
                f"the store holds layout {schema!r} and this release knows {SCHEMA!r} only; "
                "use another --namespace, or the release that wrote it"
            )
        policy = memory.get("maxmemory_policy", "noeviction")
        if memory.get("maxmemory") and policy != "noeviction":
            raise StartError(
                f"the store forgets keys when its memory is full (maxmemory-policy {policy}), and "
                "subscriptions with them; set maxmemory-policy noeviction"
            )

    async def close(self) -> None:
        """Close every connection."""
        await self._redis.aclose()


def ours(error: Exception, timeout_s: float) -> StoreError:
    """Return an error of redis's as one of ours."""
    if isinstance(error, StoreError):
        return error
    if not isinstance(error, ResponseError):
        return StoreError(str(error) or f"no answer in {timeout_s:g} s")
    text = str(error)
    for code, kind in _CODES.items():  # which redis-py takes away
        if type(error) is kind and not text.startswith(code):
            text = f"{code} {text}"
            break
    return refusal(text)
