"""What the programs share around their work: options, error lines, and the way to host-server.

A program is a folder of its own (`server`, `compile_host`, `client`, `simulate`, `demo`). Programs
do not import each other, so each part that two of them need is here. Nothing here knows the farm.
"""
