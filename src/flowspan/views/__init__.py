"""Show what was found. One file a format."""
