"""The migrations of the releases: expand, forget and contract, as files."""
