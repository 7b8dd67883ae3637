"""What runs on a compile host: saying that it is there, how busy it is, and bringing it in and out.

The programs here know one thing of the farm, the line protocol of docs/protocol.md, and nothing of
how host-server decides. They are the part that lives on somebody's desktop, so they start quickly,
sleep most of the time, import little, and leave nothing behind.
"""
