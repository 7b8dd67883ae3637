"""Where a compile should run: `policy.py` is the interface, and each policy is one of the rest."""
