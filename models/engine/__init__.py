"""Captioning and scoring with a MED, apart from its training code: packed weights, and one pass over an
image however many texts are written or judged."""
