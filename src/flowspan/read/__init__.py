"""Read traces, logs and metrics from files, and traces from Jaeger."""
