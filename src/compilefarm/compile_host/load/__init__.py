"""How busy this machine is, and how much of that is the farm's own work."""
