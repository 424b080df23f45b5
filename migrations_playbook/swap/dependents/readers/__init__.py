"""What reads the table from elsewhere, or through an expression: views, functions, policies."""
