"""What the environment says, and what it does not say."""

import os
import subprocess
import sys

import pytest

import balanceroute as br
from balanceroute.engines.gate import GateTimes
from balanceroute.engines.settings import Settings, SettingsError

NAMES = ("MODE", "POLICY", "SLOTS", "KV_CAPACITY_TOKENS", "WINDOW_MS", "STALL_MS", "MAX_HOLD_MS", "LOG_MS")
VARIABLES = [f"BALANCEROUTE_{name}" for name in NAMES]


@pytest.mark.parametrize("nothing", ["", " ", "\t \n"])
def test_an_empty_variable_is_an_unset_one(nothing):
    unset = Settings.from_env({})
    assert unset == Settings() and unset.mode == "off" and unset.slots is None
    assert Settings.from_env(dict.fromkeys(VARIABLES, nothing)) == unset
    for name in VARIABLES:
        assert Settings.from_env({name: nothing}) == unset, name


def test_blanks_around_a_value_do_not_matter():
    values = (" Step ", " exact ", " 8 ", " 0 ", " 2 ", " 500 ", " 9000 ", " 0 ")
    found = Settings.from_env(dict(zip(VARIABLES, values)))
    assert found == Settings("step", "exact", 8, 0, GateTimes(0.002, 0.5, 9.0), 0.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MODE", "on"),
        ("SLOTS", "0"),
        ("SLOTS", "1.5"),
        ("STALL_MS", "soon"),
        ("STALL_MS", "nan"),
        ("LOG_MS", "inf"),
        ("WINDOW_MS", "-1"),
    ],
)
def test_a_value_that_means_nothing_is_named(name, value):
    with pytest.raises(SettingsError, match=f"BALANCEROUTE_{name} must be .*, found"):
        Settings.from_env({f"BALANCEROUTE_{name}": value})


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("", "the best of this CPU"),
        ("  ", "the best of this CPU"),
        ("scalar", "BALANCEROUTE_ISA"),
        ("mmx", "mmx"),
    ],
)
def test_the_instruction_set(tmp_path, value, found):
    asks = (
        "import balanceroute as br\n"
        "try: print(br.Assigner('level').backend)\n"
        "except br.PolicyError as error: print(error)"
    )
    env = {**os.environ, "BALANCEROUTE_ISA": value}
    done = subprocess.run(
        [sys.executable, "-c", asks], capture_output=True, text=True, check=True, cwd=tmp_path, env=env
    )
    assert found in done.stdout, (br.isas(), done.stdout)
