"""watch-ssaver: whether the owner of this machine is present, and what follows for its compiles."""
