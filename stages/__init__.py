"""One verb a file: frozen dataclasses that say what they consume, produce and need."""
