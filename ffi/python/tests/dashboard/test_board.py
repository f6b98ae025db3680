"""The board and the rules as files: what the command prints, and the model that Grafana reads.

Of the classic model the board keeps to: schema version 39; every id and title once; a grid of 24 columns in
which nothing overlaps; one variable for the data source, which every query names; no variable that is not
there; a unit that Grafana knows, a description and a legend for all that is shown. Grafana's own types of the
model read it whole.
"""

import itertools
import json
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

import balanceroute.dashboard as dashboard
from balanceroute.dashboard import panels, promql, rules

PAGE = Path(__file__).resolve().parents[4] / "docs" / "monitoring.md"
BOARD = json.loads(dashboard.board())
TOLD = rules.rule_file("balanceroute", "docs", dashboard.Thresholds())
SHOWN = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
# What Grafana knows by itself.
BUILT_IN = {"__rate_interval"}


def command(folder, *arguments):
    """In a folder where nothing shadows the installed package."""
    return subprocess.run(
        [sys.executable, "-m", "balanceroute.dashboard", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )


@pytest.mark.parametrize(("what", "file"), [("board", dashboard.BOARD), ("alerts", dashboard.ALERTS)])
def test_the_file_of_the_package_is_what_the_command_prints(tmp_path, what, file):
    done = command(tmp_path, what)
    assert done.returncode == 0, done.stderr
    there = resources.files(dashboard).joinpath(file).read_text()
    assert there == done.stdout, f"{file} is old: python -m balanceroute.dashboard {what} prints the new one"


def test_what_means_nothing_is_refused_by_name(tmp_path):
    for arguments, said in (
        ([], "the following arguments are required: what"),
        (["bord"], "'bord'"),
        (["board", "--prefix", "br-1"], "found 'br-1'"),
        (["alerts", "--threshold", "lost=1"], "no threshold 'lost'; there are idle_slots_share"),
        (
            ["alerts", "--threshold", "lost_share=-1"],
            "lost_share: expected a number of 0 or more, found '-1'",
        ),
        (["alerts", "--threshold", "lost_share"], "lost_share: expected a number of 0 or more, found ''"),
        (["board", "--threshold", "lost_share=0.2"], "are of alerts"),
    ):
        done = command(tmp_path, *arguments)
        assert done.returncode == 2 and said in done.stderr, done.stderr


def test_what_is_asked_for_is_in_it(tmp_path):
    done = command(
        tmp_path, "alerts", "--prefix", "lb", "--docs", "https://a/b/", "--threshold", "lost_share=0.25"
    )
    assert done.returncode == 0, done.stderr
    text = done.stdout
    assert "(lb_imbalance_tokens or sum without (worker) (balanceroute_margin_tokens))" in text
    assert "> 0.25\n" in text and "> 0.1\n" not in text
    assert 'runbook_url: "https://a/b/monitoring.md#balanceroutefallback"' in text
    done = command(tmp_path, "board", "--prefix", "lb")
    assert "lb_worker_load_tokens{job" in done.stdout and "balanceroute_worker" not in done.stdout


def test_yaml_says_what_the_rules_are():
    yaml = pytest.importorskip("yaml")
    assert yaml.safe_load(dashboard.alerts()) == TOLD


def test_every_alert_has_a_section_of_the_page():
    if not PAGE.exists():
        pytest.skip("the page is not beside the tests")
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", PAGE.read_text(), re.M | re.S))
    told = TOLD["groups"][0]["rules"]
    assert sorted(sections) == sorted(rule["alert"] for rule in told)
    for rule in told:
        severity, lasts = rule["labels"]["severity"], rule["for"]
        assert f"*{severity}*" in sections[rule["alert"]], rule["alert"]
        assert rule["annotations"]["runbook_url"] == f"docs/monitoring.md#{rule['alert'].lower()}"
        assert lasts == "0m" or f"for {lasts[:-1]} min" in sections[rule["alert"]], rule["alert"]
    # And every threshold.
    for name in dashboard.Thresholds.names():
        assert f"| `{name}` | {getattr(dashboard.Thresholds(), name):g} |" in PAGE.read_text(), name


def test_grafanas_own_types_read_all_of_it():
    models = pytest.importorskip("grafana_foundation_sdk.models.dashboard")
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins

    register_default_plugins()
    read = json.loads(JSONEncoder().encode(models.Dashboard.from_json(BOARD)))
    lost = list(differences(BOARD, read, "board"))
    assert not lost, lost


def differences(ours, theirs, where):
    """What is ours and not theirs; they may add what has a default."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for name, inner in ours.items():
            if name not in theirs:
                yield f"{where}.{name}"
            else:
                yield from differences(inner, theirs[name], f"{where}.{name}")
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for at, (one, other) in enumerate(zip(ours, theirs)):
            yield from differences(one, other, f"{where}[{at}]")
    elif ours != theirs:
        yield f"{where}: {ours!r} is read as {theirs!r}"


def test_the_model():
    assert BOARD["schemaVersion"] == 39 and BOARD["uid"] and BOARD["title"]
    numbers = [panel["id"] for panel in BOARD["panels"]]
    titles = [panel["title"] for panel in BOARD["panels"]]
    assert len(set(numbers)) == len(numbers) and len(set(titles)) == len(titles)
    places = [panel["gridPos"] for panel in BOARD["panels"]]
    for place in places:
        assert place["x"] >= 0 and place["w"] > 0 and place["x"] + place["w"] <= 24 and place["h"] > 0
    for one, other in itertools.combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below, (one, other)
    assert [panel["title"] for panel in BOARD["panels"] if panel["type"] == "row"] == [
        "At a glance",
        "Balance",
        "Waiting",
        "Decisions",
        "KV caches",
        "Health",
    ]


def test_whatever_is_shown_says_what_and_in_which_unit():
    units = known_units()
    for panel in SHOWN:
        assert len(panel["description"]) > 10 and panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"] in units, panel["title"]
        letters = [target["refId"] for target in panel["targets"]]
        assert letters and len(set(letters)) == len(letters)
        for target in panel["targets"]:
            assert target["legendFormat"].strip(), panel["title"]


def known_units():
    units = pytest.importorskip("grafana_foundation_sdk.models.units")
    return {value for value in vars(units).values() if isinstance(value, str)}


def test_variables():
    variables = {variable["name"]: variable for variable in BOARD["templating"]["list"]}
    assert list(variables) == ["datasource", "job", "model", "instance"]
    assert variables["datasource"]["query"] == "prometheus"
    named = {"type": "prometheus", "uid": "${datasource}"}
    for target in [target for panel in SHOWN for target in panel["targets"]]:
        assert target["datasource"] == named
        # A selector without them would show other clusters as well.
        for selector in re.findall(r"balanceroute_\w+(\{[^}]*\})?", target["expr"]):
            assert all(f'{label}=~"${label}"' in selector for label in ("job", "model", "instance"))
        used = set(re.findall(r"\$\{?(\w+)", target["expr"]))
        assert used <= set(variables) | BUILT_IN, used
    for label in ("job", "model", "instance"):
        assert variables[label]["datasource"] == named and variables[label]["allValue"] == ".*"


def test_rows_and_panels_are_those_of_the_description():
    told = panels.board(promql.Names())
    assert [panel.title for row in told for panel in row.panels] == [panel["title"] for panel in SHOWN]
