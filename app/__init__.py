"""The terminal app and the `sequoia` command. Installed under the name `sequoia_chat`."""
