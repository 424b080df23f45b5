"""The objects bound to the columns. The swap carries all of them over, or refuses."""
