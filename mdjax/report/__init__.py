"""A table and its diagnosis as pictures and one HTML page. Never loads JAX."""
