"""How runs are read: one record, many as a frame, registered models, a run as plain facts."""
