"""The farm: a state machine in small parts. `farm.py` takes events in and returns effects."""
