"""Capture log lines and add the run that each belongs to."""
