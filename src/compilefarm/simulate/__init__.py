"""simulate-farm: builds played in virtual time, on the same core that host-server runs."""
