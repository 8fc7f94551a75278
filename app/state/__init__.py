"""A chat as plain values; knows no widget and no thread."""
