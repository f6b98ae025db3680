"""A real Prometheus scrapes a router's page and a plug-in's, and answers every query of the board."""

import contextlib
import json
import math
import re
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from importlib import resources
from pathlib import Path

import pytest

import balanceroute.dashboard as dashboard
from balanceroute.dashboard import panels, promql

pytest.importorskip("prometheus_client")
pytestmark = pytest.mark.skipif(not shutil.which("prometheus"), reason="needs prometheus")

JOBS = ("router", "plug-in")
# In seconds.
SCRAPED_EVERY = 0.25
RATES_OVER = 3
PATIENCE = 60


@contextlib.contextmanager
def running(command, **more):
    process = subprocess.Popen(command, text=True, **more)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def soon(what, find):
    """What `find` finds once it finds something."""
    end = time.monotonic() + PATIENCE
    while not (found := find()):
        assert time.monotonic() < end, f"waited {PATIENCE} s for {what}"
        time.sleep(0.1)
    return found


class Server:
    def __init__(self, address):
        self.address = address

    def ask(self, path, **arguments):
        query = urllib.parse.urlencode(arguments)
        try:
            with urllib.request.urlopen(f"http://{self.address}/api/v1/{path}?{query}", timeout=5) as answer:
                found = json.load(answer)
        except urllib.error.HTTPError as error:
            found = json.load(error)
        except urllib.error.URLError:
            return None
        assert found["status"] == "success", (arguments, found)
        return found["data"]

    def values(self, expr):
        """Numbers by labels."""
        found = self.ask("query", query=expr)["result"]
        return [(sample["metric"], float(sample["value"][1])) for sample in found]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """With several scrapes of both pages, as jobs of the names of `panels`."""
    folder = tmp_path_factory.mktemp("prometheus")
    script = Path(__file__).with_name("pages.py")
    pages = running([sys.executable, str(script)], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with pages as exporter:
        ports = exporter.stdout.readline().split()
        rules = folder / "alerts.yml"
        rules.write_text(resources.files(dashboard).joinpath(dashboard.ALERTS).read_text())
        jobs = [
            {"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
            for job, port in zip(JOBS, ports, strict=True)
        ]
        every = f"{SCRAPED_EVERY * 1000:.0f}ms"
        times = {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every}
        config = {"global": times, "rule_files": [str(rules)], "scrape_configs": jobs}
        # JSON is YAML.
        (folder / "prometheus.yml").write_text(json.dumps(config))
        log = folder / "log"
        command = [
            "prometheus",
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            "--web.listen-address=127.0.0.1:0",
        ]
        with log.open("w") as said, running(command, stderr=said, stdout=said) as prometheus:

            def listening():
                assert prometheus.poll() is None, log.read_text()
                return re.search(r'msg="Listening on" address=(\S+)', log.read_text())

            found = Server(soon("Prometheus to listen", listening)[1])

            def scraped():
                counts = "count_over_time({__name__=~'balanceroute_(worker_)?load_tokens',worker='0'}[1m])"
                if not (told := found.ask("query", query=counts)):
                    return False
                enough = RATES_OVER / SCRAPED_EVERY
                return sum(float(sample["value"][1]) >= enough for sample in told["result"]) == len(JOBS)

            soon("both pages to be scraped", scraped)
            yield found


def asked(query, job):
    """As Grafana asks when somebody has chosen a job."""
    expr = query.expr.replace(panels.OVER, f"{RATES_OVER}s").replace("$job", job)
    return re.sub(r"\$(model|instance)", ".*", expr)


def shown():
    matchers = tuple(f'{label}=~"${label}"' for label in ("job", "model", "instance"))
    for row in panels.board(promql.Names(matchers=matchers)):
        for panel in row.panels:
            yield from ((panel, query) for query in panel.queries)


def test_the_queries_are_those_of_the_board():
    board = json.loads(dashboard.board())
    told = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    assert told == [query.expr for _, query in shown()]


@pytest.mark.parametrize("job", JOBS)
def test_every_query_of_every_panel_returns_numbers(server, job):
    wrong = []
    for panel, query in shown():
        found = server.values(asked(query, job))
        where = f"{panel.title}: {query.legend}: {query.expr}"
        if job not in query.on:
            if found:
                wrong.append(f"{where}\n    returns something after all: {found[:2]}")
        elif not found:
            wrong.append(f"{where}\n    returns nothing")
        elif bad := [value for _, value in found if not math.isfinite(value)]:
            wrong.append(f"{where}\n    returns {bad[0]}")
        else:
            named = set(re.findall(r"{{(\w+)}}", query.legend))
            wrong += [
                f"{where}\n    has no label {named - set(labels)}"
                for labels, _ in found
                if named - set(labels)
            ]
    assert not wrong, "\n".join(wrong)


def test_every_name_is_a_series_and_every_series_is_shown(server):
    there = {name for name in server.ask("label/__name__/values") if name.startswith("balanceroute_")}
    asked_for = {name for _, query in shown() for name in re.findall(r"\bbalanceroute_\w+", query.expr)}
    assert asked_for - there == set()
    # Of the buckets come the quantiles; the mean is shown of decisions only.
    histograms = {name.removesuffix("_bucket") for name in there if name.endswith("_bucket")}
    spared = {f"{name}{part}" for name in histograms for part in ("_sum", "_count")}
    assert there - asked_for - spared == set()


def test_figures_agree_with_each_other(server):
    """Both pages are of one router, and what is made of other series is what it says."""
    for expr in (
        'balanceroute_running_requests{worker=""}'
        " - sum without (worker) (balanceroute_worker_running_requests)",
        "balanceroute_imbalance_tokens - sum without (worker) (balanceroute_worker_margin_tokens)",
    ):
        ((_, difference),) = server.values(expr)
        assert difference == 0, expr
    names = promql.Names(matchers=('job="plug-in"',))
    ((_, lost),) = server.values(names.lost_share())
    loads = [value for _, value in server.values('balanceroute_load_tokens{job="plug-in"}')]
    # Of another scrape, so that only the size is alike.
    assert 0 <= lost < 1 and len(loads) == 4


def test_alerts_are_evaluated_and_what_goes_well_fires_none(server):
    def evaluated():
        (group,) = server.ask("rules")["groups"]
        return all(rule["health"] == "ok" for rule in group["rules"]) and group

    group = soon("the rules to be evaluated", evaluated)
    assert len(group["rules"]) == dashboard.alerts().count("- alert:")
    assert [rule["name"] for rule in group["rules"] if rule["state"] == "firing"] == []


def test_the_labels_to_choose_by_have_values(server):
    board = json.loads(dashboard.board())
    for variable in board["templating"]["list"]:
        if variable["type"] != "query":
            continue
        selector, label = re.fullmatch(r"label_values\((.*),(\w+)\)", variable["query"]["query"]).groups()
        selector = re.sub(r"\$\w+", ".*", selector)
        values = server.ask(f"label/{label}/values", **{"match[]": selector})
        # Nothing here has a label `model`: everything is shown all the same.
        expected = {"job": sorted(JOBS), "model": []}
        assert len(values) == len(JOBS) if label == "instance" else values == expected[label]
    assert server.values(board["annotations"]["list"][0]["expr"]) == []
