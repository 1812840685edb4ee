"""How the runs of each flow and task went, added up from files of metrics."""
