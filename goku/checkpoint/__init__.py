"""A run's state on disk: saved by every rank, loaded by any number of ranks at any ZeRO stage."""
