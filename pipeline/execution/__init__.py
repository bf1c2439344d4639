"""Run a plan: which shard can run now, one attempt at it, what happens, and trying again."""
