"""The keys and channels in Redis or Valkey: what each holds, and its name.

==============================  =========  ====================================================
key (all under ``{NAMESPACE}``)  type       what
==============================  =========  ====================================================
``schema``                      string     layout of these keys; another number is refused;
                                           "+patterns" behind it while there are patterns
``version``                     string     counts every change of a subscription
``changes``                     zset       topic -> version of its last change, the newest 10,000
``floor``                       string     version up to which ``changes`` has forgotten
``run``                         string     run id of the server that last served this data
``data``                        string     a random word that an emptied store has not
``clock``                       string     ms that the members have counted together, see below
``clocked``                     string     ms of the server's time when ``clock`` was stored
``members``                     hash       id -> renewals, version it knows, lease in ms, and
                                           "patterns" where its release knows them
``topics``                      zset       topics that have subscriptions, all with score 0
``patterns``                    zset       the same of patterns, by the names of their lists
``patterned``                   string     a random word for the present set of patterns; absent
                                           where there are none
``expiries``                    zset       topic NUL client_id -> reading of ``clock`` at its end
``draining``                    hash       queue -> "MEMBER REQUEST" that empties it
``ended``                       zset       topic NUL client_id -> version at its last end, and with
                                           NUL behind it at that of its durability; the newest
                                           10,000; "" -> version up to which others are forgotten
``answers``                     hash       id of a change's request -> the reply, packed; of the
                                           last 120 s, the newest 10,000
``answered``                    zset       the same id -> reading of ``clock`` at its answer
``clients:TOPIC``               zset       client_ids subscribed to TOPIC, all with score 0
``options:TOPIC``               hash       client_id -> its options as JSON, where it has any
``drops:TOPIC``                 hash       client_id -> copies dropped by its backlog limit
``log:TOPIC``                   hash       the topic's log (``log.lua`` names the fields)
``messages:TOPIC``              stream     SEQUENCE-0 -> header, info and payload of a message
``marks:TOPIC``                 zset       "SEQUENCE CLOCK OFFSET" of the first message of each
                                           block of the log (see ``log.lua``) -> SEQUENCE
``asked:ASKER``                 hash       what became of the last requests of a process that must
                                           not be carried out twice (``asked.lua``)
``askers``                      zset       name of an ``asked:ASKER`` -> reading of ``clock`` when
                                           it asked no more, 0 before; gone a day later
``lanes:TOPIC``                 hash       durable client_id -> "OWNER TERM POSITION"
``term``                        string     the last TERM that a lane was given
``durable``                     zset       topics that have lanes, all with score 0
``due``                         zset       topic that has a log -> reading of ``clock`` at which it
                                           is pruned
``logged:TOPIC``                zset       dedup key -> reading of ``clock`` when it was logged
``places:TOPIC``                hash       dedup key -> "SEQUENCE EPOCH"
``trouble:TOPIC NUL CLIENT``    hash       sequence -> failed attempts of a message, as JSON
``order:TOPIC NUL CLIENT``      zset       parked sequence -> itself
``parked:TOPIC NUL CLIENT``     hash       sequence parked or put back -> the message; "bytes" ->
                                           of them all
``redrive:TOPIC NUL CLIENT``    zset       sequence put back -> itself
``ahead:TOPIC NUL CLIENT``      zset       "FIRST-LAST" acknowledged beyond the position -> LAST
``expired:TOPIC``               hash       durable client_id -> "TOTAL TERM COUNT": messages that
                                           expired, COUNT of them under TERM, the last one
``skipped:TOPIC``               hash       the same of messages that were passed by for newer ones
``lapsed:TOPIC NUL CLIENT``     zset       sequence that expired, and that a publisher may wait for
                                           -> itself; the newest 100
``spread:TOPIC``                zset       positions at which lanes stand, beyond those that the log
                                           itself tells (``standing.lua``)
``crowd:TOPIC``                 hash       such a position -> how many lanes stand there
``most:COUNT``                  zset       topic -> minus its count, where it is not 0; COUNT
                                           is "lag" (of the slowest lane), "parked" or "drops"
``paused:TOPIC``                zset       durable client_id -> reading of ``clock`` at its end, or
                                           infinity, of a pause
``redriven``                    zset       topic NUL client_id with messages put back -> the number
                                           of its last redrive
``redrives``                    string     counts redrives
==============================  =========  ====================================================

Channels: ``events`` tells every member what happened to logs and lanes, ``done:PROCESS`` tells a
worker process which receivers have done with a message that a caller of its waits for.

``clock`` goes on as long as one member lives: each adds to what it last read what has passed on its
own monotonic clock, and the highest counts. No wall clock decides anything, but that the server's
time says how old ``clock`` is, for a third of a lease at most (``member.lua``).

The braces put every key into one slot of a Redis Cluster, as the scripts need: a script may touch
keys of one slot only, and a change concerns a topic, the members and the version together. The
price is that one node carries a whole namespace.

No key has an expiry. A store may be set to evict such keys when its memory is full, and an expiry
runs by the server's wall clock, on which no decision here depends. What ends after a time does so
by ``clock``.
"""

from __future__ import annotations

SCHEMA = b"5"  # the layout of these keys: rises when a release could not read the former's
FORMER = b"4"  # had no counters of topics: ``migration`` makes this layout of it
BETWEEN = FORMER + b" to " + SCHEMA  # while that is done
WITH_PATTERNS = b"+patterns"  # behind it while there are patterns, which earlier releases ignored


class Keys:
    """The names of one namespace, in one database of a server.

    Arguments:
        namespace: what names begin with, in braces.
        database: the number of the database; only channels name it.
    """

    def __init__(self, namespace: str, database: int) -> None:
        self._prefix = f"{{{namespace}}}:"
        self._database = database

    def key(self, *parts: str) -> str:
        """Return the name of a key: its kind, and the topic or the pair that it belongs to."""
        return self._prefix + ":".join(parts)

    def channel(self, *parts: str) -> str:
        """Return the name of a channel: unlike keys, channels are shared by all databases of a
        server, so the name says which."""
        return f"{self.key(*parts)}@{self._database}"


def pair_of(topic: str, client_id: str) -> str:
    """Return how keys name one subscription. NUL parts the two, since no name contains it."""
    return f"{topic}\0{client_id}"
