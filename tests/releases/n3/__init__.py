"""Release N+3: the shadow column goes."""
