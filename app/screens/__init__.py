"""Screens of the app: the chat, and what opens over it or instead of it."""
