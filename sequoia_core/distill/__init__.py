"""Making a draft for a target out of text that the target writes itself; see `pipeline`."""
