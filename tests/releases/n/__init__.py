"""Release N: before the rotation."""
