"""How the definitions of bound objects are read, restated with the columns exchanged, and tried."""
