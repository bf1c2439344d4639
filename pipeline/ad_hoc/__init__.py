"""Models without a run: caption and score images from files."""
