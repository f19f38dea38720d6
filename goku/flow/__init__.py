"""Rectified flow: the path from noise to clean, its timesteps, its loss and its sampler."""
