"""A Llama-family model: configuration, weights, forward pass and KV cache. Knows no trees."""
