"""Release N+2: the code no longer knows the shadow column."""
