"""From a name to a model: checkpoints, tokenizers, pairs, and the memory they take."""
