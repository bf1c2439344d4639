"""A run's pictures and texts by meaning: an index of their vectors, search in all four directions, labels."""
