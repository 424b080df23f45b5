"""What is bound to the columns, and what the swap does about it: all of it, or it refuses."""
