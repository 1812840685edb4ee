"""Where the time of a run went: read spans, make a tree of them, draw it.

Works on files or on what Jaeger answers, and imports neither Prefect nor the OpenTelemetry SDK.
"""
