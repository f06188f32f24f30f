"""Features become a snapshot: an immutable, validated, point-in-time correct training set."""
