"""Objectives of flows, and whether their runs meet them."""
