"""Work out what took the time, with pure functions over the data read."""
