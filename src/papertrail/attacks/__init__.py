"""Searches for tokens, triggers and embeddings that raise the loss of any causal language model."""
