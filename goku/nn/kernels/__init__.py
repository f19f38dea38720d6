"""Triton kernels of the work between the products. Imported only where there is a GPU."""
