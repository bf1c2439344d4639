"""Fetching the images of a shard from the web, in a child process that may die, through a guarded opener."""
