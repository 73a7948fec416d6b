"""The store: what is kept in Redis or Valkey, and the only importer of redis."""
