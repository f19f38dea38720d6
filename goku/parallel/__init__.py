"""How a finished model is spread over processes: mesh, sequence parallelism, sharded state."""
