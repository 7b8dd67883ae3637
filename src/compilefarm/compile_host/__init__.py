"""The programs of a compile host: enable-host, disable-host, loadavg, watch-ssaver, power-index.

They run on someone's desktop. So they start fast, sleep most of the time, import little, and leave
nothing behind. They know the line protocol (docs/protocol.md), and nothing else of the farm.
"""
