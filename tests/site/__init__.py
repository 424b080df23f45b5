"""What the site does meanwhile: single writes of every kind, of each release."""
