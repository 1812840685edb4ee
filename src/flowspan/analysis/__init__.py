"""Work out what took the time. Pure functions over what was read."""
