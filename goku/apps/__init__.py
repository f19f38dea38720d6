"""The programs that a run starts, one per job. Each parses, builds and calls."""
