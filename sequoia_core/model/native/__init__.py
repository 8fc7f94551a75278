"""The native forward pass for CPUs: a C++ library and what loads, fills and calls it."""
