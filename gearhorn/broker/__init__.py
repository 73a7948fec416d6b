"""The worker process: takes requests, copies messages, keeps its peers' caches right."""
