"""Release N+1 with the product broken in one known way, which the variable BROKEN names.

A rehearsal that cannot fail proves nothing: these are what it must find.
"""
