"""Fan-outs: a message in, a copy for each subscriber out."""
