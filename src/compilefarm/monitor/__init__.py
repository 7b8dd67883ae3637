"""Seeing the farm: the monitor port (HTTP) and the table in a terminal.

Both read snapshots, the JSON-ready values of `Farm.snapshot`, and nothing else: a monitor that
could reach into the farm would tie its shape to theirs, and could hold it up.
"""
