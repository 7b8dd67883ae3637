"""How fast this machine compiles: the program power-index and its benchmark."""
