"""From a recipe to a graph of stages with fingerprints, and what of it is done."""
