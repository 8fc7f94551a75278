"""Data that travels with the engine: the embedded target's draft. No code."""
