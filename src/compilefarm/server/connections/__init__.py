"""host-server's connections: bytes to events of the farm, and answers to bytes.

`lines` is the part that the three line ports share. `requests` has the first of them, `hosts` the
other two, and `monitor` has the fourth port, which speaks HTTP. `message_fields` reads the words
that several messages share.

A connection decides nothing about hosts or slots.
"""
