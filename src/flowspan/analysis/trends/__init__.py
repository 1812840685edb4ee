"""Compare many runs of a flow."""
