"""What runs on a compile host: enable-host, disable-host, loadavg, watch-ssaver and power-index.

These programs live on a person's desktop. They start fast, sleep most of the time, import little,
and leave nothing behind. Of the farm they know only the line protocol (docs/protocol.md).
"""
