"""Embed images, find near-duplicates and images that are held out: what goes on is unique."""
