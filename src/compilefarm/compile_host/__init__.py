"""The programs of a compile host: enable-host, disable-host, loadavg, watch-ssaver, power-index.

They run on someone's desktop. So they start fast, sleep most of the time, import little, and leave
nothing behind. Of the farm they know only the line protocol (docs/protocol.md).
"""
