"""What the apps are built on: shells, the clipboard, terminal drivers and pacing."""
