"""What both ends of a connection share: ports, addresses, lines, proofs, and host declarations.

Pure functions and records. Nothing here opens a socket or a file, and nothing here knows the farm.
"""
