"""Recorded chats: the trace file."""
