"""Record one run: its span, its times, its metrics."""
