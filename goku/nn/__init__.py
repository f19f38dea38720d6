"""Tensor parts of the model: no state beyond weights, no knowledge of processes or data."""
