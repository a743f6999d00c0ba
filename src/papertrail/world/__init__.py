"""Do language models of cities generalise from one task to others? Base, specialists and pairs."""
