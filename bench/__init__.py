"""How fast compilefarm is, compared with peers and with a lower limit: `make bench`.

Absolute figures mean little on a shared machine, so nothing here is measured alone. All that a
section compares runs in the same minute, in turns. Shown are the medians over the turns, and their
ratio.
"""
