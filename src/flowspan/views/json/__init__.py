"""Documents in JSON."""
