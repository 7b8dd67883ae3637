"""host-server's connections: bytes to events of the farm, and answers to bytes.

`lines` has what the three line ports share. `requests` and `hosts` have these ports, and `monitor`
the fourth, which speaks HTTP. `message_fields` reads the words that several messages have.

A connection decides nothing about hosts or slots.
"""
