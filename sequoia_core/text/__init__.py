"""Text and token ids: chat templates, tokens as text, and text as it grows."""
