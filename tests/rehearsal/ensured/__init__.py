"""Migrations of `tickets` that play the rotation by themselves where nobody watches."""
