"""A study: its options, its stages, its run directory and its result."""
