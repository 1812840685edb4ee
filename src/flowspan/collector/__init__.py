"""The OpenTelemetry Collector configuration that ships with flowspan."""
