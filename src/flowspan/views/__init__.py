"""Render findings, with one file per format."""
