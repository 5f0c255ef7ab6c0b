"""What `python -m shards verify` checks, and what it mends."""
