"""What is told of a run while it runs: console, log, metrics."""
