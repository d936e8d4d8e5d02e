"""The page of ``hypern-shm serve``: what it serves (app), who may see it (guard), what it watches (watch, tail)."""
