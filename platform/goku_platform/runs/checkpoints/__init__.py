"""What can be done with a run's checkpoints, without torch: one verb, one file."""
