"""Loading, scoring, merging and saving models."""
