"""What is committed in a run, by whom, and how it gets there."""
