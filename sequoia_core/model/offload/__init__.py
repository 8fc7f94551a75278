"""A model whose layers stay on disk or in main memory and pass through two buffers."""
