"""The monitor port (HTTP): the page, `/api/farm` and `/metrics`.

Each reads snapshots of the farm and nothing else. A monitor that could reach into the farm would
depend on its shape, and could hold it up.
"""
