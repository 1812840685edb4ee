"""The configuration of the OpenTelemetry Collector that ships with flowspan."""
