"""The JSON of requests, replies and events, as frozen structs; the only importer of msgspec."""
