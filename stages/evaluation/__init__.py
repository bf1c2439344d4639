"""Held-out human pairs: scores, audited captions, the threshold, every reported figure."""
