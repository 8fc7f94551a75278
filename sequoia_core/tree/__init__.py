"""A tree shape as a value, its files, and the search for the best one."""
