"""Images from bytes to tensors: decoding, also in a process that may die, hashing, preparation."""
