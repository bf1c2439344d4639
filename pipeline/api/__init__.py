"""What `import capfilt` and the command line do: the same functions for both. Nothing here prints."""
