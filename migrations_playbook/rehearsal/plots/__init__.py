"""What the meaning of a shadow decides in a rehearsal.

- `base`: the interface.
- `rotated`: values are drawn; what a client is told must still be true in the end.
- `converted`: clients write either column; the other one must be what is made of it.
- `samples`: values for the clients of a conversion to write.
- `kinds`: the plot of a replacement.
"""
