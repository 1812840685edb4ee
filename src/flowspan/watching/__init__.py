"""Observe Prefect from beside its server: fill in what the processes of runs did not report."""
