"""Captioning and scoring with a MED, apart from its training code: packed weights, shared image keys, one pass
an image."""
