"""Recorded chats: the trace file, and an engine that replays it."""
