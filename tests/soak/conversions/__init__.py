"""Random histories of conversions."""
