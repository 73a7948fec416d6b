"""The library: what an application imports to publish, subscribe, ask and administer.

``gearhorn.aio`` has these classes as they are; ``gearhorn`` has blocking ones of the same names.

Theory of operation. Everything that the library says to a worker is an ordinary Gearman job, as any
client could submit it (docs/protocol.rst). What it adds is what is hard to get right by hand: many
jobs on one connection without waiting for each other (``jobs``), a clear fate for each of them when
a connection ends, receivers that lose nothing when they start, stop and reconnect (``session``),
and repeats that are recognised (``deliveries``). A publisher and a subscriber have connections of
their own: what waits for a slow handler must not stand in front of what is published.

Layers: ``settings``, ``payloads``, ``results`` and ``message`` are values; ``jobs``, ``receiver``
and ``deliveries`` know the connections; ``publisher``, ``admin``, ``log`` and ``subscriber`` are
what applications see; ``blocking`` and ``sync`` put a thread in front of them.
"""
