"""Settings, keys, themes, and where a person's files lie."""
