"""The ``flowspan`` command. One file a command."""
