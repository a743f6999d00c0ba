"""Searches over the options of any experiment: Optuna proposes, trials are runs."""
