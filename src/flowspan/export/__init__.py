"""Where telemetry goes: the SDK's providers, bounded, and the embedded files."""
