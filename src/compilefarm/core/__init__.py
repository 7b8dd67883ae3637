"""The farm without I/O: what is true of it, and where each compile should run.

Everything here is a function of events and of the time that comes with them. Nothing here knows
sockets, clocks, randomness, logs or files. So one core runs in host-server, in simulate-farm and in
property tests. import-linter checks it (`pyproject.toml`).
"""
