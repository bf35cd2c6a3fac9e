"""A second load generator, to check `diptych bench` against: ``python -m benchmarks.independent URL TRACE
OUT``.

One thread a request, blocking sockets of the standard library, nothing shared with `diptych.bench`: neither
the
event loop nor the parser nor the clock. Slow beyond some hundred requests in flight, which is not its
purpose.
Knows: Mooncake's JSONL without sessions, OpenAI's streams. Does not know: diptych.
"""

from __future__ import annotations

import http.client
import json
import random
import sys
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

HEAD_START_S = 0.5
LARGEST_ID = 999
SMALLEST_ID = 16


class Request(threading.Thread):
    """One request, from its due moment to the end of its stream."""

    def __init__(self, url: str, model: str, row: dict[str, Any], start_s: float, number: int) -> None:
        super().__init__()
        chooser = random.Random(f"{start_s}/{number}")
        ids = [chooser.randint(SMALLEST_ID, LARGEST_ID) for _ in range(row["input_length"])]
        self._body = json.dumps(
            {
                "model": model,
                "prompt": ids,
                "max_tokens": row["output_length"],
                "temperature": 0,
                "ignore_eos": True,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
        ).encode()
        place = urlsplit(url)
        self._connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=120)
        self._due_s = start_s + row["timestamp"] / 1000
        self.token_s: list[float] = []
        self.tokens = 0

    @property
    def figures(self) -> dict[str, float]:
        """By the same definitions, from the due moment."""
        first_s, last_s = self.token_s[0], self.token_s[-1]
        return {
            "ttft_s": first_s - self._due_s,
            "tpot_s": (last_s - first_s) / (self.tokens - 1),
            "e2e_s": last_s - self._due_s,
        }

    def run(self) -> None:
        """Wait, send, read."""
        time.sleep(max(0.0, self._due_s - time.time()))
        self._connection.request("POST", "/v1/completions", self._body, {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        while line := response.readline():
            now_s = time.time()
            if line.startswith(b"data: {"):
                self._take(json.loads(line[6:]), now_s)
        self._connection.close()

    def _take(self, chunk: dict[str, Any], now_s: float) -> None:
        if "error" in chunk:
            raise RuntimeError(f"the server failed: {chunk['error']}")
        if chunk.get("usage"):
            self.tokens = chunk["usage"]["completion_tokens"]
        for choice in chunk["choices"]:
            if choice["text"] or choice["finish_reason"] is None:
                self.token_s.append(now_s)


def measure(url: str, trace: Path) -> dict[str, Any]:
    """Send the trace once; medians, and values of each request."""
    rows = [json.loads(line) for line in trace.read_text().splitlines()]
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=30)
    connection.request("GET", "/v1/models")
    model = json.load(connection.getresponse())["data"][0]["id"]
    connection.close()
    start_s = time.time() + HEAD_START_S
    requests = [Request(url, model, row, start_s, number) for number, row in enumerate(rows)]
    for request in requests:
        request.start()
    for request in requests:
        request.join()
    values = [request.figures for request in requests]
    return {"medians": {name: median(one[name] for one in values) for name in values[0]}, "requests": values}


if __name__ == "__main__":
    Path(sys.argv[3]).write_text(json.dumps(measure(sys.argv[1], Path(sys.argv[2]))))
