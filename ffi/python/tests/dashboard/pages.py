"""A process with the pages that the board and the alerts are of: a running router's, by the exporter of the
examples, and an engine's with a plug-in. Prints the ports of the two and runs until its standard input ends.
"""

import sys
import tempfile
import threading
import time
from pathlib import Path

import prometheus_client

from balanceroute.engines.series import Series

sys.path.append(str(Path(__file__).resolve().parents[2] / "examples"))
from exporter import Cluster, serve  # noqa: E402


def main():
    cluster = Cluster()
    folder = tempfile.TemporaryDirectory()
    cluster.router.record(folder.name, segment_bytes=1 << 20, segments=2)
    series = Series()
    series.held(3)
    began = time.monotonic()

    def run():
        while True:
            cluster.step(int((time.monotonic() - began) * 1000))
            series.show(cluster.router.metrics())
            time.sleep(0.01)

    cluster.step(0)
    threading.Thread(target=run, daemon=True).start()
    engine, _ = prometheus_client.start_http_server(0, "127.0.0.1")
    print(serve(cluster.router).server_port, engine.server_port, flush=True)
    sys.stdin.read()
    folder.cleanup()


if __name__ == "__main__":
    main()
