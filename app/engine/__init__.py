"""The engine behind a thread, or in a process of its own."""
