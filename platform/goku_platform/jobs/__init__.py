"""A job as pure data: what runs where, planned from a run's configuration and a profile."""
