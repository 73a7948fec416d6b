"""gear, pipelined: the Gearman protocol for one event loop. Has never heard of a topic."""
