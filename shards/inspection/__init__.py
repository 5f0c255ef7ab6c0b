"""What `python -m shards inspect` measures, draws and writes."""
