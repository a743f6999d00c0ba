"""What a run is, in rooms that import one way only: training -> answering -> reading -> writing ->
storage -> question. What every room needs lies here: errors, signals, progress, paths, digests."""
