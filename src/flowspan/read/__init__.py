"""Read traces, logs and metrics back, from files and from Jaeger."""
