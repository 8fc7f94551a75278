"""The record of all chats: one SQLite database, one writer thread, readers that never wait."""
