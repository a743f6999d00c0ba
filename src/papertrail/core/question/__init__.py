"""What is asked: experiments, their options and presets, canonical configs, identities, drift."""
