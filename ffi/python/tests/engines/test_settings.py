"""What the environment says, and what it does not say."""

import logging
import os
import subprocess
import sys

import pytest

import balanceroute as br
from balanceroute.engines.gate import GateTimes
from balanceroute.engines import settings as module
from balanceroute.engines.settings import VARIABLES, Settings, SettingsError


@pytest.mark.parametrize("nothing", ["", " ", "\t \n"])
def test_an_empty_variable_is_an_unset_one(nothing):
    unset = Settings.from_env({})
    assert unset == Settings() and unset.mode == "off" and unset.slots is None
    assert Settings.from_env(dict.fromkeys(VARIABLES, nothing)) == unset
    for name in VARIABLES:
        assert Settings.from_env({name: nothing}) == unset, name


def test_blanks_around_a_value_do_not_matter(tmp_path):
    values = (" Step ", " exact ", " 8 ", " 0 ", " 1, 2.5 ", " 0 ", " 3 ", " 64 ", " a b ", " 2 ", " 500 ")
    found = Settings.from_env(
        dict(zip(VARIABLES, [*values, " 9000 ", " 0 ", " 0 ", str(tmp_path), " 1 "], strict=True))
    )
    times = GateTimes(0.002, 0.5, 9.0)
    assert found == Settings(
        "step",
        "exact",
        8,
        0,
        (1.0, 2.5),
        0,
        3,
        64,
        "a b",
        times,
        hub=False,
        log_every=0.0,
        record=str(tmp_path),
        strict=True,
    )
    assert f"calls are recorded below {tmp_path}" in found.in_words(None)


def test_a_recording_that_cannot_begin_is_named_at_start(tmp_path, caplog):
    file = tmp_path / "file"
    file.write_text("no folder")
    wrong = {"BALANCEROUTE_MODE": "step", "BALANCEROUTE_RECORD": str(file)}
    with pytest.raises(
        SettingsError, match="BALANCEROUTE_RECORD must be a folder that can be written, found"
    ):
        Settings.from_env(wrong)
    found, said = say_at_start(caplog, **wrong)
    assert found is None and "BALANCEROUTE_RECORD" in said[0][1] and "as it always does" in said[0][1]
    with pytest.raises(SystemExit, match="BALANCEROUTE_RECORD"):
        say_at_start(caplog, **wrong, BALANCEROUTE_STRICT="1")
    # Nothing is made where nothing is on.
    made = tmp_path / "made"
    assert Settings.from_env({"BALANCEROUTE_RECORD": str(made)}).record is None and not made.exists()
    found = Settings.from_env({"BALANCEROUTE_MODE": "arrival", "BALANCEROUTE_RECORD": str(made)})
    assert found.record == str(made) and list(made.iterdir()) == []


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
        ("POLICY", "Level"),
        ("STRICT", "yes"),
        ("WEIGHTS", "1,,2"),
        ("WEIGHTS", "0"),
        ("LOWER_CLASS_ONE_IN", "1"),
        ("MAX_PASSED", "-1"),
        ("MAX_PASSED", "1.5"),
        ("MAX_PASSED", "many"),
        ("MAX_PASSED", "100000000"),
        ("HEADROOM_STEPS", "-1"),
        ("HEADROOM_STEPS", "1e9"),
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


@pytest.mark.parametrize(
    ("name", "value", "nearest"),
    [("MODE", "setp", "step"), ("POLICY", "levle", "level"), ("POLICY", "vllm-0.34", "vllm-0.33")],
)
def test_a_misspelt_name_is_told_the_nearest(name, value, nearest):
    with pytest.raises(SettingsError, match=f"found '{value}' .nearest: {nearest}.$"):
        Settings.from_env({f"BALANCEROUTE_{name}": value})


def binds_on_arrival(policy):
    """Whether of many that wait some are not admitted though only one rank ever has room."""
    router = br.Router([br.WorkerConfig(1)] * 2, policy=policy, mode="step")
    for id in range(2):
        router.place(id, 100, 0, rank=id)
    for id in range(2, 18):
        router.enqueue(id, 100)
    router.step(0)
    here, sent = 0, 0
    for _ in range(16):
        router.finish(here)
        admissions = router.step(0).admissions
        if not admissions:
            return True
        (admission,) = admissions
        assert admission.worker == 0
        here, sent = admission.id, sent + 1
    return sent < 16


def test_what_binds_on_arrival_is_what_is_refused_for_it():
    assert {policy for policy in br.POLICIES if binds_on_arrival(policy)} == module.BIND_ON_ARRIVAL


def test_policies_that_cannot_decide_per_step_are_refused_in_step():
    for policy in br.POLICIES:
        Settings.from_env({"BALANCEROUTE_MODE": "arrival", "BALANCEROUTE_POLICY": policy})
        step = {"BALANCEROUTE_MODE": "step", "BALANCEROUTE_POLICY": policy}
        if policy in module.BIND_ON_ARRIVAL:
            with pytest.raises(SettingsError, match="which binds on arrival"):
                Settings.from_env(step)
        elif policy.endswith("-oracle"):
            with pytest.raises(SettingsError, match="which needs to know when requests end"):
                Settings.from_env(step)
        else:
            assert Settings.from_env(step).policy == policy


def say_at_start(caplog, **env):
    caplog.clear()
    found = module.at_start("vLLM", logging.getLogger("test"), env)
    return found, [(r.levelname, r.getMessage()) for r in caplog.records]


def test_an_unknown_variable_is_named_and_does_not_stop_the_rest(caplog):
    found, said = say_at_start(
        caplog,
        BALANCEROUTE_MODE="step",
        BALANCEROUTE_SLOT="8",
        BALANCEROUTE_ISA="scalar",
        BALANCEROUTE_ASCEND_CHIPS="x",
        OTHERS="1",
    )
    assert found is not None and found.mode == "step" and found.slots is None
    (line,) = said
    assert line == (
        "WARNING",
        "balanceroute: BALANCEROUTE_SLOT is no variable of ours (nearest: BALANCEROUTE_SLOTS), "
        "and has no effect",
    )
    # Also where the mode itself is the misspelt one.
    found, said = say_at_start(caplog, BALANCEROUTE_MOD="step")
    assert found is None and "nearest: BALANCEROUTE_MODE" in said[0][1]
    assert say_at_start(caplog) == (None, [])


def test_a_wrong_value_leaves_the_engine_as_it_is_or_ends_the_start(caplog):
    wrong = {"BALANCEROUTE_MODE": "step", "BALANCEROUTE_POLICY": "levle", "BALANCEROUTE_STAL_MS": "9"}
    found, said = say_at_start(caplog, **wrong)
    assert found is None
    assert [level for level, _ in said] == ["WARNING", "ERROR"]
    assert "found 'levle' (nearest: level); vLLM routes as it always does" in said[1][1]
    for strict in ("1", "yes"):
        with pytest.raises(SystemExit, match="BALANCEROUTE_STAL_MS.*; BALANCEROUTE_.* must be"):
            say_at_start(caplog, **wrong, BALANCEROUTE_STRICT=strict)
    found, said = say_at_start(caplog, BALANCEROUTE_MODE="step", BALANCEROUTE_STRICT="1")
    assert found is not None and said == []


def test_what_the_log_would_swallow_goes_to_stderr(capsys):
    log = logging.getLogger("alone")
    log.propagate = False
    log.setLevel(logging.INFO)
    module.say(log, logging.INFO, "no handler: %d", 1)
    log.addHandler(logging.NullHandler(logging.ERROR))
    module.say(log, logging.INFO, "a deaf handler: %d", 2)
    log.addHandler(logging.StreamHandler(sys.stdout))
    module.say(log, logging.INFO, "heard: %d", 3)
    log.setLevel(logging.ERROR)
    module.say(log, logging.INFO, "too low: %d", 4)
    log.disabled = True
    module.say(log, logging.ERROR, "turned off: %d", 5)
    heard = capsys.readouterr()
    assert heard.err.splitlines() == [
        "no handler: 1",
        "a deaf handler: 2",
        "too low: 4",
        "turned off: 5",
    ]
    assert heard.out == "heard: 3\n"


@pytest.mark.parametrize("ranks", [1, 3])
def test_which_policies_bound_passing_and_how(ranks):
    def bound(policy, **parameters):
        router = br.Router([br.WorkerConfig(1)] * ranks, policy=policy, parameters=parameters)
        router.enqueue(1, 100)
        router.step(0)
        return router.metrics().max_passed

    bounds = {policy: bound(policy) for policy in br.POLICIES}
    assert {policy for policy in bounds if bounds[policy] is not None} == module.BOUND_PASSING
    for policy in module.BOUND_PASSING:
        assert bounds[policy] == module.PASSED_PER_RANK * ranks and bound(policy, max_passed=7) == 7


@pytest.mark.parametrize(
    ("mode", "policy", "where"),
    [
        ("step", "br0", "under br0"),
        ("step", "least-kv", "under least-kv"),
        ("arrival", "level", "on arrival"),
    ],
)
def test_a_bound_that_bounds_nothing_is_named(caplog, mode, policy, where):
    asked = {"BALANCEROUTE_MODE": mode, "BALANCEROUTE_POLICY": policy, "BALANCEROUTE_MAX_PASSED": "9"}
    found, said = say_at_start(caplog, **asked)
    assert found is not None
    line = f"balanceroute: BALANCEROUTE_MAX_PASSED bounds nothing {where}, and has no effect"
    assert said == [("WARNING", line)]
    asked |= {"BALANCEROUTE_MODE": "step", "BALANCEROUTE_POLICY": "level"}
    assert say_at_start(caplog, **asked)[1] == []
    assert say_at_start(caplog, **{**asked, "BALANCEROUTE_MODE": "off"})[1] == []


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("MAX_PASED", "(nearest: BALANCEROUTE_MAX_PASSED)"),
        ("HEADROOM", "(nearest: BALANCEROUTE_HEADROOM_STEPS)"),
        ("AGING_SPREAD", "(BALANCEROUTE_MAX_PASSED took the place of what went by such names)"),
        ("OVERDUE_MEAN_WAITS", "(BALANCEROUTE_MAX_PASSED took the place of what went by such names)"),
        ("LEVEL_GIANT_SPREADS", "(BALANCEROUTE_MAX_PASSED took the place of what went by such names)"),
        ("RESERVE", "(BALANCEROUTE_MAX_PASSED took the place of what went by such names)"),
    ],
)
def test_what_took_the_place_of_a_name_is_told(caplog, name, instead):
    _, said = say_at_start(caplog, **{f"BALANCEROUTE_{name}": "3"})
    assert said == [
        ("WARNING", f"balanceroute: BALANCEROUTE_{name} is no variable of ours {instead}, and has no effect")
    ]


@pytest.mark.parametrize("value", ["level:aging_spread=0.1", "level(exact.overdue_mean_waits=4)", "reserve"])
def test_a_policy_with_what_has_gone_is_told_what_took_its_place(value):
    with pytest.raises(SettingsError, match="BALANCEROUTE_MAX_PASSED took the place of what went by such"):
        Settings.from_env({"BALANCEROUTE_POLICY": value})


def test_what_holds_of_growth_and_waiting_in_words():
    assert Settings("step").in_words("room") == ["room", "nobody is passed by more than 128 others a rank"]
    own = Settings("step", max_passed=0, headroom_steps=64)
    assert own.in_words("room") == [
        "64 KV tokens a request left free for growth",
        "nobody is passed by more than 0 others",
    ]
    assert own.in_words(None) == ["nobody is passed by more than 0 others"]
    assert Settings("step", "br0").in_words(None) == Settings("arrival").in_words(None) == []
