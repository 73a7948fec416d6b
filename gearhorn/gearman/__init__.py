"""The Gearman protocol for one event loop. It has never heard of a topic.

``link`` keeps a connection up; ``client`` submits copies on one and ``worker`` takes jobs. The rest
asks single questions: ``admin`` by text commands, ``drain``, ``trimming``, ``reap`` and ``bury`` by
grabbing. What gearmand does that its documentation does not say is in docs/gearmand.rst.
"""
