"""What people ask of runs that stand: why, invalidate, accept, register, export and import."""
