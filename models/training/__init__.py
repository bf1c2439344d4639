"""Training MED: objectives, pair sets, the loop and its four jobs."""
