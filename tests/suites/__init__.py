"""Other people's test suites: untouched, with shadows expanded, and with them exchanged."""
