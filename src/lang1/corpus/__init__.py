"""Notes and general text to token shards."""
