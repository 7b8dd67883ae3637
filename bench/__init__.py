"""How fast compilefarm is, beside what it should be compared with: `make bench`.

Absolute figures mean little on a shared machine, so nothing here is measured alone. What is
compared runs in the same minute, in turns, and medians over the turns are shown with their ratio.
"""
