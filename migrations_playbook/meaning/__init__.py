"""What the values of a shadow mean: a rotation draws them, a conversion makes them."""
