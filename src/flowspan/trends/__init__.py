"""How the runs of a flow change over weeks: reads many traces, tests, and says what is certain.

Needs scipy, which the extra ``trends`` brings; only `statistics` and what stands on it import it.
Like the timeline, nothing here imports Prefect or the OpenTelemetry SDK.
"""
