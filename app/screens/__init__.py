"""Full screens of the app: the chat and the help over it."""
