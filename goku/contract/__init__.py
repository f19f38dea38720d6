"""What a run leaves behind, and what all that touch a run must agree on. Needs no torch."""
