"""A `/metrics` page for Prometheus beside a loop that decides: `python exporter.py 9401`."""

import random
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import balanceroute as br
from balanceroute import prometheus


def serve(router: br.Router, port: int = 0) -> ThreadingHTTPServer:
    """Answers for the router from threads of its own, while others use it. Port 0 is one that is free."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = prometheus.render(router.metrics()).encode()
            self.send_response(200)
            self.send_header("Content-Type", prometheus.CONTENT_TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """A line for each scrape is none that anybody reads."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


class Cluster:
    """Ranks in lock-step and more requests than slots: one call of `step` is a decode step."""

    def __init__(self, ranks: int = 4) -> None:
        self.router = br.Router([br.WorkerConfig(8, kv_capacity_tokens=100_000)] * ranks)
        self.random = random.Random(1)
        self.left: dict[int, int] = {}  # tokens that each running request will still send
        self.sent: list[int | None] = [None] * ranks  # the last dispatch to each rank
        self.next_id = self.steps = 0

    def step(self, now_ms: int) -> None:
        while self.router.waiting_len < 12:
            self.router.enqueue(self.next_id, self.random.randint(100, 6_000), priority=self.next_id % 2)
            self.next_id += 1
        for dispatch in self.router.step(now_ms).admissions:
            self.left[dispatch.id] = self.random.randint(1, 60)
            self.sent[dispatch.worker] = dispatch.number
        self.router.advance()
        for request in [request for request, tokens in self.left.items() if tokens == 1]:
            self.router.finish(request)
        self.left = {request: tokens - 1 for request, tokens in self.left.items() if tokens > 1}
        self.steps += 1
        for rank in self.router.metrics().ranks:  # an engine measures these
            self.router.report(
                rank.worker,
                running=rank.running,
                kv_used_tokens=rank.kv_used_tokens,
                sequence=self.steps,
                last_dispatch=self.sent[rank.worker],
            )


if __name__ == "__main__":
    cluster = Cluster()
    print(f"http://127.0.0.1:{serve(cluster.router, int(sys.argv[1])).server_port}/metrics", flush=True)
    began = time.monotonic()
    while True:
        cluster.step(int((time.monotonic() - began) * 1000))
        time.sleep(0.02)
