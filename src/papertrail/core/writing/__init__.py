"""How a run is written: its owner, its spool and sender, signs of life, finished parts."""
