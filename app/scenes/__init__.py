"""The recordings of `sequoia demo`: traces that `python -m tests.app.record_scenes` makes."""
