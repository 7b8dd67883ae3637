"""What the programs share besides their work: options, error lines, connections to host-server.

Each program is a folder of its own (`server`, `compile_host`, `client`, `simulate`, `demo`).
Programs do not import each other, so a part that two of them need is here. Nothing here knows the
farm.
"""
