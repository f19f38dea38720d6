"""Samples: records and media of curated clips, the stream's order, packing and loading."""
