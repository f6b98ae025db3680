"""The alerts on made-up series, evaluated by promtool: each fires once what is wrong has lasted, on either
page, and is silent before that and where something else explains it.
"""

import json
import shutil
import subprocess
from dataclasses import dataclass, field
from importlib import resources

import pytest

import balanceroute.dashboard as dashboard
from balanceroute.dashboard import rules

pytestmark = pytest.mark.skipif(not shutil.which("promtool"), reason="needs promtool")

RULES = {
    rule["alert"]: rule
    for rule in rules.rule_file("balanceroute", dashboard.DOCS, dashboard.Thresholds())["groups"][0]["rules"]
}
# Two hours of one value, a sample a minute.
ALWAYS = "x120"
PAGES = ("router", "plug-in")


@dataclass
class Cluster:
    """Series of two ranks on one page: two hours of the same."""

    page: str
    series: dict[str, str] = field(default_factory=dict)

    def worker(self, name, *values):
        name = f"worker_{name}" if self.page == "router" else name
        return self.each(name, "worker", dict(enumerate(values)))

    def each(self, name, label, values):
        """`values` by a label: numbers that stay, or promtool's notation."""
        for of, value in values.items():
            self.put(f'{name}{{instance="a",{label}="{of}"}}', value)
        return self

    def one(self, name, value):
        return self.put(f'{name}{{instance="a"}}', value)

    def put(self, series, value):
        self.series[f"balanceroute_{series}"] = value if isinstance(value, str) else f"{value}+0{ALWAYS}"
        return self

    def waits(self, count, reason="deferred"):
        if self.page == "router":
            return self.put(f'waiting_requests{{instance="a",reason="{reason}"}}', count)
        return self.one("held_requests", count)

    def loads(self, *tokens):
        """With what a router says of the whole."""
        envelope = max(tokens)
        margins = [envelope - load for load in tokens]
        self.worker("load_tokens", *tokens).worker("margin_tokens", *margins)
        if self.page == "router":
            self.one("envelope_tokens", envelope).one("imbalance_tokens", sum(margins))
        return self


@dataclass
class Case:
    """At `minute` the alert fires with these labels and this summary, or, without a summary, does not."""

    alert: str
    cluster: Cluster
    minute: int
    summary: str | None = None
    labels: dict[str, str] = field(default_factory=dict)

    def test(self):
        expected = []
        if self.summary is not None:
            rule = RULES[self.alert]
            told = {**rule["annotations"], "summary": self.summary}
            labels = {"instance": "a", **rule["labels"], **self.labels}
            expected.append({"exp_labels": labels, "exp_annotations": told})
        inputs = [{"series": name, "values": values} for name, values in self.cluster.series.items()]
        asked = {"alertname": self.alert, "eval_time": f"{self.minute}m", "exp_alerts": expected}
        return {"interval": "1m", "input_series": inputs, "alert_rule_test": [asked]}


def idle(page, free=(4, 4), waits=5, reason="deferred", accepting=(1, 1), claimed=(0, 0), used=(100, 100)):
    of = Cluster(page).worker("free_slots", *free).worker("slots", 16, 16)
    of.worker("accepting", *accepting).worker("claimed", *claimed)
    of.worker("kv_used_tokens", *used).worker("kv_growth_tokens", 50, 50)
    return of.worker("kv_capacity_tokens", 1000, 1000).waits(waits, reason)


def idle_without_bound(page):
    of = Cluster(page).worker("free_slots", 4, 0).worker("slots", 16, 16)
    return of.worker("accepting", 1, 1).worker("claimed", 0, 0).waits(1)


def loaded(page, *tokens, running=12):
    of = Cluster(page).loads(*tokens).worker("running_requests", running, running)
    return of.worker("slots", 16, 16)


def reported(page, age, running=(3, 3)):
    return Cluster(page).worker("report_age_seconds", *age).worker("running_requests", *running)


def cases():
    for page in PAGES:
        # Queue beside idle slots.
        name = "BalanceRouteQueueBesideIdleSlots"
        beside = "requests wait at a beside {} of the slots".format
        yield Case(name, idle(page), 6, beside("25%"))
        yield Case(name, idle(page), 4)
        yield Case(name, idle(page, waits=0), 60)
        yield Case(name, idle(page, free=(1, 0)), 60)
        yield Case(name, idle(page, accepting=(0, 1)), 6, beside("12.5%"))
        yield Case(name, idle(page, accepting=(0, 0)), 60)
        yield Case(name, idle(page, claimed=(1, 1)), 60)
        # Room for growth counts.
        yield Case(name, idle(page, used=(860, 900)), 60)
        yield Case(name, idle_without_bound(page), 6, beside("12.5%"))
        # One good minute begins the five anew.
        yield Case(name, idle(page, waits="5+0x3 0 5+0x110"), 8)

        name = "BalanceRouteRankOverCapacity"
        of = Cluster(page).worker("kv_used_tokens", 1100, 999, 5)
        of.worker("kv_capacity_tokens", 1000, 1000, 0)
        yield Case(name, of, 2, "KV cache of rank 0 of a is at 110% of what fits", {"worker": "0"})
        yield Case(name, of, 0)

        name = "BalanceRouteImbalanceHigh"
        lost = "workers of a spend {} of their time waiting for the fullest one".format
        yield Case(name, loaded(page, 1000, 600), 16, lost("20%"))
        yield Case(name, loaded(page, 1000, 600), 14)
        yield Case(name, loaded(page, 1000, 850), 60)
        yield Case(name, loaded(page, 1000, 600, running=8), 60)
        yield Case(name, loaded(page, 0, 0), 60)

        name = "BalanceRoutePassedNearBound"
        of = Cluster(page).one("most_passed_waiting", 243).one("max_passed", 256)
        yield Case(name, of, 6, "a request at a has been passed by 94.92% of what is allowed")
        yield Case(name, of, 4)
        yield Case(name, Cluster(page).one("most_passed_waiting", 230).one("max_passed", 256), 60)
        # First come, first served: there is no bound to be near.
        yield Case(name, Cluster(page).one("most_passed_waiting", 0).one("max_passed", 0), 60)

        name = "BalanceRouteStatisticsStale"
        yield Case(
            name, reported(page, (75, 2)), 2, "the last report of rank 0 of a is 1m 15s old", {"worker": "0"}
        )
        yield Case(name, reported(page, (75, 2)), 0)
        yield Case(name, reported(page, (75, 2), running=(0, 3)), 60)

        name = "BalanceRouteRecordingStopped"
        of = Cluster(page).one("recording", "1+0x2 0+0x60")
        yield Case(name, of, 3)
        yield Case(name, of, 4, "calls at a are recorded no more")
        yield Case(name, Cluster(page).one("recording", 1), 60)

    router, plug_in = Cluster("router"), Cluster("plug-in")
    name = "BalanceRouteQueueBesideIdleSlots"
    for reason in ("no_slot", "no_capacity", "not_eligible", "claims", "claimed"):
        yield Case(name, idle("router", reason=reason), 60)
    yield Case(name, idle("router", reason="outside_window"), 6, "requests wait at a beside 25% of the slots")

    name = "BalanceRouteWaitsLong"
    yield Case(name, router.one("longest_wait_seconds", 90), 3, "a request at a has waited for 1m 30s")
    yield Case(name, router, 1)
    yield Case(name, Cluster("router").one("longest_wait_seconds", 60), 60)

    name = "BalanceRouteFallback"
    plug_in.one("active", "1+0x2 0+0x60")
    yield Case(name, plug_in, 3)
    yield Case(name, plug_in, 4, "the engine at a decides for itself")
    yield Case(name, Cluster("plug-in").one("active", 1), 60)

    name = "BalanceRouteReportsContradict"
    of = Cluster("router")
    for worker, contradictory in ((0, 6), (1, 2)):
        for verdict, each in (("taken", 94), ("contradictory", contradictory), ("late", 0)):
            labels = f'instance="a",worker="{worker}",verdict="{verdict}"'
            of.put(f"worker_reports_total{{{labels}}}", f"0+{each}{ALWAYS}")
    yield Case(name, of, 8, "6% of the reports of rank 0 of a contradict what it had told", {"worker": "0"})
    yield Case(name, of, 4)

    name = "BalanceRouteRequestsLost"
    of = Cluster("router").each("left_total", "how", {"worker_silent": "0+0x9 3+0x60", "finished": "0+5x60"})
    yield Case(name, of, 9)
    yield Case(name, of, 10, "requests of a came back: worker_silent", {"how": "worker_silent"})
    yield Case(name, of, 25)

    name = "BalanceRouteDecisionsSlow"
    for bound, minute, summary in (
        ("0.008", 12, "decisions at a take 7.96ms at the 99th percentile"),
        ("0.008", 9, None),
        ("0.002", 60, None),
    ):
        of = Cluster("router")
        for le, each in (
            ("0.001", 0),
            ("0.004" if bound == "0.008" else bound, 0),
            (bound, 60),
            ("+Inf", 60),
        ):
            of.put(f'decide_seconds_bucket{{instance="a",le="{le}"}}', f"0+{each}{ALWAYS}")
        yield Case(name, of, minute, summary)


def promtool(folder, *arguments):
    return subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False, cwd=folder)


def judged(folder, tests):
    # JSON is YAML.
    told = {"rule_files": [dashboard.ALERTS], "evaluation_interval": "1m", "tests": tests}
    (folder / "tests.yml").write_text(json.dumps(told))
    return promtool(folder, "test", "rules", "tests.yml")


@pytest.fixture
def folder(tmp_path):
    text = resources.files(dashboard).joinpath(dashboard.ALERTS).read_text()
    (tmp_path / dashboard.ALERTS).write_text(text)
    return tmp_path


def test_promtool_reads_the_rules(folder):
    done = promtool(folder, "check", "rules", "--lint-fatal", dashboard.ALERTS)
    assert done.returncode == 0 and f"{len(RULES)} rules found" in done.stdout, done.stdout + done.stderr


def test_promtool_reads_whatever_is_asked_for(folder):
    """Another prefix, other thresholds."""
    (folder / "other.yml").write_text(
        dashboard.alerts(prefix="lb", thresholds=dashboard.Thresholds(decide_seconds=1e-5, lost_share=0))
    )
    done = promtool(folder, "check", "rules", "--lint-fatal", "other.yml")
    assert done.returncode == 0 and f"{len(RULES)} rules found" in done.stdout, done.stdout + done.stderr


def test_alerts_fire_when_they_should_and_else_do_not(folder):
    told = list(cases())
    done = judged(folder, [case.test() for case in told])
    assert done.returncode == 0, done.stdout + done.stderr
    for name in RULES:
        firing = [case for case in told if case.alert == name and case.summary is not None]
        silent = [case for case in told if case.alert == name and case.summary is None]
        assert firing and silent, name


def test_a_wrong_expectation_is_found(folder):
    """What promtool says counts: a case that is turned around fails."""
    case = next(case for case in cases() if case.summary is not None)
    case.summary = None
    assert judged(folder, [case.test()]).returncode != 0


def test_instances_of_both_pages_are_each_seen(folder):
    inputs, expected = [], []
    name = "BalanceRouteRankOverCapacity"
    for page, instance in (("router", "a"), ("plug-in", "b")):
        of = Cluster(page).worker("kv_used_tokens", 1100).worker("kv_capacity_tokens", 1000)
        case = Case(name, of, 2, f"KV cache of rank 0 of {instance} is at 110% of what fits", {"worker": "0"})
        (alert,) = case.test()["alert_rule_test"][0]["exp_alerts"]
        alert["exp_labels"]["instance"] = instance
        expected.append(alert)
        for series in case.test()["input_series"]:
            named = series["series"].replace('instance="a"', f'instance="{instance}"')
            inputs.append({"series": named, "values": series["values"]})
    asked = [{"alertname": name, "eval_time": "2m", "exp_alerts": expected}]
    test = {"interval": "1m", "input_series": inputs, "alert_rule_test": asked}
    done = judged(folder, [test])
    assert done.returncode == 0, done.stdout + done.stderr
