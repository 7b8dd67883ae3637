"""Tiers: hosts of near-equal speed, numbered by the whole part of their power index."""


def tier_of(power_index: float) -> int:
    """Return the tier of a power index: its whole part, at least 1.

    One that went through a logarithm and back is 7.999999999999998 where it was 8.
    """
    return max(1, int(power_index * (1.0 + 1e-9)))
