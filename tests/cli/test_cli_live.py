"""`serve` and `generate` with real workers and the built-in model."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import httpx
import pytest

from support.documents import code_blocks
from support.source import REPOSITORY

pytestmark = pytest.mark.live

PROMPT = "Tell me a tale."
SMALL = ("--kv-memory", "64MiB", "--max-model-tokens", "512")


def generate(*arguments: str) -> dict[str, Any]:
    """`diptych generate --json` with these arguments."""
    command = [sys.executable, "-m", "diptych", "generate", PROMPT, "--json", "--max-tokens", "24", *SMALL]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def split() -> dict[str, Any]:
    return generate("--temperature", "1", "--seed", "7")


def test_a_prompt_goes_from_prefill_to_decode(split: dict[str, Any]) -> None:
    assert (split["prefill_worker"], split["decode_worker"]) == ("prefill-0", "decode-0")
    assert split["handoff"]["kind"] == "borrow"
    assert split["usage"]["completion_tokens"] == len(split["token_ids"])
    assert split["usage"]["cached_tokens"] == 0
    assert split["text"]
    assert split["finish_reason"] in ("stop", "length")
    assert split["model"] == "diptych-tales"


def test_phases_add_up_to_the_whole(split: dict[str, Any]) -> None:
    assert sum(split["phases"].values()) == pytest.approx(split["e2e_s"])
    assert split["phases"]["handoff_s"] == pytest.approx(split["handoff"]["handoff_s"])
    assert min(split["phases"].values()) >= 0
    times = list(split["received_to_moment_s"].values())
    assert times == sorted(times) and times[0] == 0


def test_a_placement_keeps_its_candidates(split: dict[str, Any]) -> None:
    (placement,) = split["placements"]
    assert placement["reason"]
    assert any(candidate["rejected"] is None for candidate in placement["candidates"])


def test_split_and_unsplit_say_the_same(split: dict[str, Any]) -> None:
    mixed = generate("--temperature", "1", "--seed", "7", "--mixed", "1")
    assert (mixed["prefill_worker"], mixed["decode_worker"]) == ("mixed-0", "mixed-0")
    assert mixed["handoff"]["kind"] == "none"
    for same in ("text", "token_ids", "finish_reason", "usage"):
        assert mixed[same] == split[same]


@contextmanager
def served(log: IO[str], *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`diptych serve` on a free port, once it has announced itself."""
    environ = {**os.environ, "NO_COLOR": "1", "COLUMNS": "120"}
    process = subprocess.Popen(
        [sys.executable, "-m", "diptych", "serve", "--port", "0", *SMALL, *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env=environ,
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            log.write(line)
            if found := re.search(r"serving \S+ on (http://\S+)", line):
                yield process, found.group(1)
                return
        raise AssertionError(f"serve ended with {process.wait()}")
    finally:
        process.kill()
        process.communicate()


def test_serve_announces_itself_answers_and_ends(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w+") as log, served(log) as (process, url):
        log.seek(0)
        banner = log.read()
        for word in ("diptych-tales", "prefill-0", "decode-0", "KV for", "borrow", f"{url}/v1"):
            assert word in banner
        pasted = re.search(r"curl (\S+) .*?-d '(.*?)'", banner, re.DOTALL)
        assert pasted
        _check_answer(httpx.post(pasted.group(1), json=json.loads(pasted.group(2)), timeout=120))
        _check_readme(url)
        assert httpx.get(f"{url}/ready").status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) == 0


def _check_answer(answer: httpx.Response) -> None:
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"]


def _check_readme(url: str) -> None:
    """The README's Python block prints a story when its address is the one of this server."""
    (block,) = code_blocks(REPOSITORY / "README.md", "python")
    code = block.replace("http://127.0.0.1:8000", url)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) > 10


def test_a_taken_port_costs_one_line_and_no_start() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "diptych", "serve", "--port", port]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    assert "--port" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--host", "0.0.0.0"), ("DIPTYCH_API_KEY", "--insecure")),
        (("nowhere/at/all",), ("nowhere/at/all", "does not exist")),
        (("--http", "keep_alive=1"), ("did you mean keep_alive_s?",)),
        (("--kv-memory", "1KiB"), ("kv.memory_bytes", "at least")),
        (("--max-model-tokens", "99999999"), ("model.max_model_tokens", "99999999")),
    ],
)
def test_what_cannot_be_served_is_refused_with_the_remedy(
    arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    command = [sys.executable, "-m", "diptych", "serve", "--port", "0", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert [word for word in words if word not in done.stderr] == []
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--max-tokens", "0"), "max_tokens"),
        (("--max-tokens", "999999"), "context"),
        (("--temperature", "9"), "temperature"),
        (("--temperature", "nan"), "temperature"),
        (("--seed", "9" * 30), "seed"),
        (("--model", "./nowhere"), "nowhere"),
    ],
)
def test_generate_refuses_before_anything_starts(arguments: tuple[str, ...], word: str) -> None:
    command = [sys.executable, "-m", "diptych", "generate", PROMPT, "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert word in done.stderr and len(done.stderr.splitlines()) == 1
