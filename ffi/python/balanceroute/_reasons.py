"""Why a request waits: one enum for all that say it."""

from enum import IntEnum


class WaitReason(IntEnum):
    """What became of a request. Arrays hold its numbers, everything else its members; `str` of one is its
    name. It is a number where JSON is written: write `str(reason)` for the name.
    """

    ADMITTED = 0
    NO_SLOT = 1
    NO_CAPACITY = 2
    NOT_ELIGIBLE = 3
    OUTSIDE_WINDOW = 4
    DEFERRED = 5
    CLAIMS = 6
    CLAIMED = 7

    def __str__(self) -> str:
        return self.name.lower()

    def __format__(self, spec: str) -> str:
        return int.__format__(self, spec) if spec[-1:] in set("bcdoxXneEfFgG%") else format(str(self), spec)


# Shown and pickled as what users import.
WaitReason.__module__ = "balanceroute"
