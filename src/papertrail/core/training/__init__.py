"""Lightning inside a run: exact resume, checkpoints, several devices. The only numbers of core."""
