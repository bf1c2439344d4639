"""From a source to images with their bytes: list, fetch, read, clean texts, find placeholders."""
