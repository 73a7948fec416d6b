"""Durable topics: from the log through the lanes to the receivers."""
