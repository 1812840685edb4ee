"""Capture log lines, and give each the run it belongs to."""
