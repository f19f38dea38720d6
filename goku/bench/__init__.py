"""How fast the transformer is on one GPU, against the kernels that it cannot do without."""
