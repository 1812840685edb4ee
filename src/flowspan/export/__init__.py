"""Export telemetry: the SDK's providers with bounded flush and shutdown, and embedded files."""
