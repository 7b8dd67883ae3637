"""What host-server keeps on disk: the state file and the record of compiles."""
