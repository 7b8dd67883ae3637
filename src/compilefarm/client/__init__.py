"""The programs that people run by hand: addhost, remhost and mon-host-server.

They know the line protocol and `/api/farm`. They do not know how host-server decides.
"""
