"""When a rank wrote something, by our clock, though its own is off, drifts and is set."""

import random

import pytest

from balanceroute.engines.rank_clock import Look, RankClock


def looks(rng, ahead, seconds, every=(0.015, 0.03), write_every=0.3):
    """Truth beside what is seen: the time of each write, and the look that found it."""
    now, absent_at, wrote = 0.0, float("-inf"), None
    next_write = 0.1
    while now < seconds:
        now += rng.uniform(*every)
        while next_write < now:
            wrote, next_write = next_write, next_write + write_every * rng.uniform(0.5, 1.5)
        # Readable a little after its stamp.
        if wrote is not None and wrote + 0.001 < now:
            yield wrote, Look(wrote + ahead(wrote), absent_at, now)
            wrote = None
        absent_at = now


@pytest.mark.parametrize("ahead", [0.0, 0.004, -0.004, 2.5, -2.5, 86_400.0])
@pytest.mark.parametrize("drift", [0.0, 5e-5, -5e-5])
def test_never_later_than_a_look_and_not_much_earlier(ahead, drift):
    clock = RankClock()
    for at, (truth, look) in enumerate(looks(random.Random(1), lambda t: ahead + drift * t, 120.0)):
        clock.see(look)
        found = clock.written(look)
        assert look.absent_at <= found <= look.seen_at
        # The first look is before any that did not find it.
        if at >= 2:
            assert truth - 0.031 <= found <= truth + 0.01, (at, truth, found)


def test_a_clock_that_agrees_is_believed_at_once():
    clock = RankClock()
    look = Look(10.0, float("-inf"), 12.0)
    clock.see(look)
    assert clock.written(look) == 10.0


@pytest.mark.parametrize("jump", [5.0, -5.0, 0.5, -0.5])
def test_a_clock_that_is_set_is_seen_with_the_next_look(jump):
    clock = RankClock()
    rng = random.Random(2)
    for truth, look in looks(rng, lambda t: 1.0 + (jump if t > 30.0 else 0.0), 60.0):
        clock.see(look)
        if truth > 1.0:
            assert truth - 0.031 <= clock.written(look) <= truth + 0.01, truth


def test_without_a_look_before_nothing_is_sure():
    clock = RankClock()
    ahead = Look(500.0, float("-inf"), 100.0)
    clock.see(ahead)
    # Ahead of the only look: it can have been written at any time before.
    assert clock.written(ahead) == float("-inf")
