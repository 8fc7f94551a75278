"""Measures a pair on this machine: forward times and acceptance rates, from which trees follow."""
