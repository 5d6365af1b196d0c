"""A symmetric linear operator → Ritz pairs, trace, spectral density. Knows no models."""
