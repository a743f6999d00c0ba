"""Intervals and paired tests over samples, texts and training seeds."""
