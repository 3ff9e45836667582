"""The engine: the chain of a cell's parts, bound to arrays and run through time, layers and directions."""
