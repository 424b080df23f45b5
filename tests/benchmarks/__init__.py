"""Measurements on a real PostgreSQL of their own, printed as ratios: `make bench`."""
