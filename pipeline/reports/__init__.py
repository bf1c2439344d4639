"""What is known of a run: its rows, its figures, whether it is whole."""
