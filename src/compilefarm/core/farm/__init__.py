"""The farm's state machine: `farm.py` takes events in and returns effects."""
