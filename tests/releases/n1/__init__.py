"""Release N+1: the app `tickets` as it is, with its shadow column and its commands."""
