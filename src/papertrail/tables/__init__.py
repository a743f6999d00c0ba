"""Paper tables: what they need, what a cell says, how they look, whether they reproduce."""
