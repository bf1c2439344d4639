"""Ray: a connection, a scheduler, workers, their capacity, and runs as jobs of a cluster."""
