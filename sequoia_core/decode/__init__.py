"""The decoding loop: a step drafts a tree, scores it, verifies it and commits the accepted path."""
