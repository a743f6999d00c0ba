"""Where runs live: the store behind one client, its tables in bulk, artifacts of elsewhere."""
