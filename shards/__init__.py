"""Tar shards out of data sets, and their checks: `python -m shards --help`."""
