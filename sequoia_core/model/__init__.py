"""A model: configuration, weights, forward pass and KV cache; it knows no trees."""
