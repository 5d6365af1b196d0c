"""A model and its examples → the shape of the loss around it: curvature, curves, surfaces, similarity."""
