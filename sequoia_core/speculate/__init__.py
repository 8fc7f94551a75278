"""One token tree: drafted, judged and sized."""
