"""Publish one message; print how many copies were queued."""

import gearhorn

with gearhorn.Publisher("localhost:4730") as publisher:
    print("copies:", publisher.publish("news", "hello").copies)
