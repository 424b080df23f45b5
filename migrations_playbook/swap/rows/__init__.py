"""What a swap does about the rows, by the meaning of their shadow: a rotation's, a conversion's."""
