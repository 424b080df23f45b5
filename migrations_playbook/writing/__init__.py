"""The migrations of the releases: what expand, forget and contract are, as files."""
