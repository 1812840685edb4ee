"""The ``flowspan`` command, with one file for each subcommand."""
