"""Where images and their texts come from, one kind of source a file."""
