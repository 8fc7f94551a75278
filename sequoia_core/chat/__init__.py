"""Several turns with one pair of models, and races between two ways to decode."""
