"""Long runs that look for what nobody has thought of: `make soak`."""
