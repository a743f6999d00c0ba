"""Does a language model with non-negative weights in its MLPs resist attacks? Arms and controls."""
