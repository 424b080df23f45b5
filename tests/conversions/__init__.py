"""Conversions: two columns kept in step."""
