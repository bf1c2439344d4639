"""What the data is: records, Arrow schemas, identity, rejects, provenance and errors."""
