"""One training run: what is built, the loop, and what it reports. Floor 4."""
