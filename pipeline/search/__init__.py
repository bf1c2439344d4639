"""A run's images and texts by meaning: an index of their vectors, search in all four directions, labels."""
