"""Trained models and the data they were trained on: the store, data sources, grids, training."""
