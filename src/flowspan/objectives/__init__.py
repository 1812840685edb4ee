"""What flows promise, and whether they keep it."""
