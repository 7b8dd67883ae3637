"""What host-server saves on disk: the state file, and the record of compiles."""
