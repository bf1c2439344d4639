"""What a run would cost, by the records of another."""
