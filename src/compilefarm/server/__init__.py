"""host-server: it connects the farm in `core` to sockets, the clock, files and the log."""
