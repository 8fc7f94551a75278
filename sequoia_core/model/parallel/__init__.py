"""One target computed by several processes (ranks), each with a part of every layer."""
