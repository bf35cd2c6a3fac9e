"""What a hostile or careless client can send to a real server, and what a broken model directory does to it.

Each refusal has its status and OpenAI's body; after each the server still answers, and nothing is held.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from diptych.builtin import builtin_model_dir
from support.serving import serving
from support.tiny_models import save_random_model, write_config

pytestmark = pytest.mark.live

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
MODEL = "diptych-tales"
JSON = {"content-type": "application/json"}
REST_S = 20.0


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Of a server of its own, which nobody else's mistakes can hurt."""
    folder = tmp_path_factory.mktemp("model") / "tales"
    shutil.copytree(builtin_model_dir(), folder)
    named = ("--served-model-name", MODEL, "--max-model-tokens", "512", "--kv-memory", "32MiB")
    with serving(str(folder), *named) as url, httpx.Client(base_url=url, timeout=60) as opened:
        yield opened
        check_nothing_is_held(opened)


@pytest.fixture(autouse=True)
def _goes_on(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test of the server: alive, ready, and able to answer. At the end of all: nothing is held."""
    yield
    if "client" in request.fixturenames:
        check_going_on(request.getfixturevalue("client"))


def check_going_on(client: httpx.Client) -> None:
    assert client.get("/health").status_code == client.get("/ready").status_code == 200
    answer = client.post(CHAT, json=good())
    assert answer.status_code == 200 and answer.json()["usage"]["completion_tokens"] > 0


def check_nothing_is_held(client: httpx.Client) -> None:
    """Workers tell their figures now and then: wait until they have."""
    deadline_s = time.monotonic() + REST_S
    while (held := held_by(client)) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert held == {}


def held_by(client: httpx.Client) -> dict[str, Any]:
    """What of the cluster is in use now, with the figures that are not zero."""
    load = client.get("/load").json()
    found = {name: load[name] for name in ("waiting_requests", "running_requests")}
    for worker in load["workers"]:
        for name in ("running", "waiting", "held_blocks", "reserved_blocks", "leases"):
            found[f"{worker['worker_id']} {name}"] = worker["stats"][name]
    return {name: value for name, value in found.items() if value}


def good(**more: Any) -> dict[str, Any]:
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Who are you?"}],
        "max_tokens": 4,
        **more,
    }


def check_refused(response: httpx.Response, status: int, code: str | None = None) -> dict[str, Any]:
    """The error, in OpenAI's shape."""
    assert response.status_code == status, response.text[:300]
    (error,) = response.json().values()
    assert set(error) == {"message", "type", "param", "code"} and 0 < len(error["message"]) < 1000
    assert "Traceback" not in response.text
    assert code is None or error["code"] == code
    return error


# ---------------------------------------------------------------- values

WRONG_TYPES: dict[str, list[Any]] = {
    "model": [5, [], {}, True],
    "messages": [5, "x", {}, None, [5], [[]], [{}], [{"role": 5}], [{"role": "user", "content": {}}]],
    "stream": [1, "true", []],
    "stream_options": [1, "x", [], {"include_usage": "x"}],
    "max_tokens": ["5", 1.5, [], True],
    "max_completion_tokens": ["5", 1.5, {}],
    "n": ["1", 1.5, [1]],
    "temperature": ["1", [], {}, True],
    "top_p": ["1", [], {}],
    "top_k": ["1", 1.5, []],
    "min_p": ["0", []],
    "presence_penalty": ["0", []],
    "frequency_penalty": ["0", {}],
    "repetition_penalty": ["1", []],
    "logit_bias": [5, "x", [1], {"1": "x"}, {"1": None}],
    "seed": ["1", 1.5, []],
    "stop": [5, {}, [5], [[]]],
    "stop_token_ids": [5, "x", ["x"], [1.5]],
    "include_stop_str_in_output": [1, "x"],
    "ignore_eos": [1, "x"],
    "min_tokens": ["1", 1.5],
    "skip_special_tokens": [1, "x"],
    "prompt_logprobs": ["1", 1.5],
    "return_token_ids": [1, "x"],
    "include_metrics": [1, "x"],
    "priority": ["1", 1.5],
    "request_id": [1, [], "a b"],
    "cache_salt": [1, []],
    "user": [1, []],
    "logprobs": [5, "x"],
    "top_logprobs": ["1", 1.5],
    "add_generation_prompt": [1, "x"],
    "continue_final_message": [1, "x"],
    "chat_template_kwargs": [1, "x", []],
    "reasoning_effort": [1, []],
    "tools": [1, "x", {}],
    "tool_choice": [1, []],
    "response_format": [1, "x", []],
}


@pytest.mark.parametrize("field", WRONG_TYPES)
def test_a_wrong_type_is_named(client: httpx.Client, field: str) -> None:
    for value in WRONG_TYPES[field]:
        error = check_refused(client.post(CHAT, json=good(**{field: value})), 400)
        assert error["param"] is not None and error["param"].split("[")[0].split(".")[0] == field


def test_no_field_is_left_out() -> None:
    from diptych.server.openai.bodies import ChatCompletionRequest

    assert set(WRONG_TYPES) == set(ChatCompletionRequest.model_fields)


ABSURD: list[tuple[str, Any]] = [
    ("temperature", 1e9), ("temperature", -1), ("temperature", 2.0000001),
    ("top_p", 0), ("top_p", -1), ("top_p", 1.1), ("top_k", -2), ("min_p", -1e-9), ("min_p", 2),
    ("max_tokens", 0), ("max_tokens", -1), ("max_tokens", 10**12), ("max_tokens", 10**30),
    ("min_tokens", 10**12), ("n", 0), ("n", -1), ("n", 10**6), ("n", 10**30),
    ("repetition_penalty", 0), ("repetition_penalty", 1e30), ("presence_penalty", 1e30),
    ("logit_bias", {"1000000": 1}), ("logit_bias", {"-1": 1}), ("logit_bias", {"9" * 400: 1}),
    ("logit_bias", {"1": 1e30}), ("stop", ["x"] * 1000), ("stop", [""]),
    ("stop_token_ids", [10**6]), ("stop_token_ids", [-1]), ("stop_token_ids", [10**30]),
    ("seed", 2**63), ("seed", 10**30), ("priority", 10**30), ("top_logprobs", 10**6),
    ("prompt_logprobs", 10**6),
    ("request_id", "x" * 1000), ("cache_salt", "x" * 10_000), ("messages", []),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), ABSURD, ids=lambda value: str(value)[:24])
def test_an_absurd_value_is_named(client: httpx.Client, field: str, value: Any) -> None:
    error = check_refused(client.post(CHAT, json=good(**{field: value})), 400)
    assert error["param"] == field


@pytest.mark.parametrize(
    "number", ["NaN", "Infinity", "-Infinity", "1e400", "-1e400", "0x10", "1_0", "١", ".5", "+1"]
)
def test_what_json_does_not_know_as_a_number_is_refused(client: httpx.Client, number: str) -> None:
    body = json.dumps(good(temperature="@")).replace('"@"', number)
    check_refused(client.post(CHAT, content=body.encode(), headers=JSON), 400)


def test_an_unknown_model_is_404(client: httpx.Client) -> None:
    for name in ("gpt-9", "", "../../etc/passwd", "x" * 512, "\u0000"):
        check_refused(client.post(CHAT, json=good(model=name)), 404, "model_not_found")
    check_refused(client.get("/v1/models/gpt-9"), 404, "model_not_found")


def test_extremes_that_are_allowed_are_answered(client: httpx.Client) -> None:
    allowed: list[dict[str, Any]] = [
        {"temperature": 2, "top_p": 1e-9}, {"temperature": 0, "top_k": 10**9}, {"temperature": 1e-30},
        {"logit_bias": {str(token): 100 for token in range(1000)}}, {"logit_bias": {"7": -100}},
        {"stop": ["\u0000", "🙂" * 1000]}, {"repetition_penalty": 10}, {"seed": -(2**63)}, {"min_p": 1},
        {"max_tokens": None, "n": None, "stop": None}, {"user": "🙂" * 10_000}, {"n": 20},
    ]  # fmt: skip
    for more in allowed:
        response = client.post(CHAT, json=good(**more))
        assert response.status_code == 200, (more, response.text[:300])


# ---------------------------------------------------------------- prompts


def test_prompts_beyond_the_context_are_refused(client: httpx.Client) -> None:
    for text in ("river " * 600, "x" * 7_000_000, "🙂" * 100_000, "\u0000" * 10_000):
        for path, body in (
            (TEXT, {"prompt": text}),
            (CHAT, good(messages=[{"role": "user", "content": text}])),
        ):
            check_refused(client.post(path, json=body), 400, "context_length_exceeded")
    check_refused(client.post(TEXT, json={"prompt": [1] * 100_000}), 400, "context_length_exceeded")
    check_refused(client.post(TEXT, json={"prompt": ["a"] * 100_000}), 400)
    check_refused(client.post(TEXT, json={"prompt": [[1]] * 100_000}), 400)
    check_refused(client.post(TEXT, json={"prompt": [2**31]}), 400)


@pytest.mark.parametrize(
    "text",
    [
        "\u0000\u0001\uffff\ufffe",
        "🙂👩‍👩‍👧‍👦" * 5,
        "\u202e\u0301" * 20,
        "{{ 7 * 7 }}{% raw %}",
        "<|endoftext|>" * 20,
    ],
)
def test_odd_text_is_only_text(client: httpx.Client, text: str) -> None:
    for path, body in (
        (TEXT, {"prompt": text, "max_tokens": 2}),
        (CHAT, good(messages=[{"role": "user", "content": text}])),
    ):
        assert client.post(path, json=body).status_code == 200


# ---------------------------------------------------------------- bodies

NOT_JSON = [
    b"", b" ", b"{", b'{"messages": ', b"[]", b"null", b"true", b"7", b'"x"',
    b"{'a': 1}", b"\x00", b"\xff\xfe{\x00}\x00",
    b'{"model": "\xe4"}', b'{"model": "\\ud800"}', b'{"a": 1,}', b"{}{}", b"\xef\xbb\xbf{}", b"[" * 100_000,
    b'{"a":' * 100_000 + b"1" + b"}" * 100_000, b"\x1f\x8b\x08" + bytes(100),
]  # fmt: skip


@pytest.mark.parametrize("data", NOT_JSON, ids=lambda data: repr(data[:16]))
def test_a_body_that_is_no_json_object_is_refused(client: httpx.Client, data: bytes) -> None:
    for path in (CHAT, TEXT):
        check_refused(client.post(path, content=data, headers=JSON), 400, "invalid_json")


def test_depth_inside_a_valid_body_is_refused(client: httpx.Client) -> None:
    for field in ("messages", "logit_bias", "chat_template_kwargs", "nobody_knows_this"):
        deep = "[" * 100_000 + "]" * 100_000
        body = json.dumps(good(**{field: "@"})).replace('"@"', deep)
        check_refused(client.post(CHAT, content=body.encode(), headers=JSON), 400)


def test_a_body_that_is_too_large_is_refused_whichever_way_it_comes(client: httpx.Client) -> None:
    data = json.dumps(good(user="x" * 10_000_000)).encode()
    pieces = [data[start : start + 65_536] for start in range(0, len(data), 65_536)]
    for content in (data, iter(pieces)):
        check_refused(client.post(CHAT, content=content, headers=JSON), 413, "request_too_large")


@pytest.mark.parametrize(
    "kind", ["text/plain", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "x"]
)
def test_another_content_type_is_refused(client: httpx.Client, kind: str) -> None:
    response = client.post(CHAT, content=json.dumps(good()).encode(), headers={"content-type": kind})
    check_refused(response, 400, "invalid_content_type")


@pytest.mark.parametrize("verb", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_a_wrong_method_is_refused(client: httpx.Client, verb: str) -> None:
    response = client.request(verb, CHAT)
    check_refused(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize(
    "path", ["/", "/v2/models", "/v1", "/v1/chat", "/docs/../../etc/passwd", "/%00", "/" + "x" * 10_000]
)
def test_an_unknown_route_is_404(client: httpx.Client, path: str) -> None:
    check_refused(client.get(path), 404, "not_found")


# ---------------------------------------------------------------- connections


def connected(client: httpx.Client) -> socket.socket:
    return socket.create_connection((client.base_url.host, client.base_url.port or 80), timeout=30)


def head(length: int, *more: str) -> bytes:
    lines = (
        f"POST {CHAT} HTTP/1.1",
        "host: x",
        "content-type: application/json",
        f"content-length: {length}",
        *more,
    )
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def test_clients_that_leave_in_the_middle_leave_nothing(client: httpx.Client) -> None:
    body = json.dumps(good(max_tokens=400, ignore_eos=True, stream=True)).encode()
    for sent in (
        b"",
        b"POST",
        b"POST /v1/chat/comp",
        head(100),
        head(100) + b"{",
        head(len(body)) + body[:-1],
    ):
        with connected(client) as raw:
            raw.sendall(sent)
    for _ in range(4):
        with connected(client) as raw:
            raw.sendall(head(len(body)) + body)
            assert raw.recv(4096).startswith(b"HTTP/1.1 200")  # the stream runs, and nobody reads on
    check_nothing_is_held(client)


def test_a_slow_client_holds_up_nobody(client: httpx.Client) -> None:
    body = json.dumps(good()).encode()
    with connected(client) as raw:
        raw.sendall(head(len(body)) + body[:10])
        check_going_on(client)
        raw.sendall(body[10:])
        assert raw.recv(4096).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "data",
    [
        b"BREW / HTTP/1.1\r\nhost: x\r\n\r\n", b"\x00" * 100 + b"\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 100,
        head(-1), b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=["method", "zeros", "version", "tls", "negative", "letters", "chunk"],
)  # fmt: skip
def test_what_is_no_http_ends_its_connection_only(client: httpx.Client, data: bytes) -> None:
    with connected(client) as raw:
        raw.sendall(data)
        answer = b""
        while part := raw.recv(4096):
            answer += part
    assert answer.startswith(b"HTTP/1.1 4") or answer == b""


# ---------------------------------------------------------------- starts


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory in which nothing is wrong."""
    folder = tmp_path_factory.mktemp("whole")
    save_random_model(folder, "Llama", vocab_size=2048, bos_token_id=None, pad_token_id=0)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(builtin_model_dir() / name, folder / name)
    return folder


def edit_config(**changes: Any) -> Callable[[Path], None]:
    """Set keys of config.json; None removes one."""

    def edit(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text()) | changes
        kept = {key: value for key, value in config.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(kept))

    return edit


def edit_tensors(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return edit


def overwrite(name: str, data: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).write_bytes(data)

    return write


def truncate(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 100_000)


UP = "model.layers.1.mlp.up_proj.weight"
BROKEN: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "missing tensor": (edit_tensors(lambda tensors: tensors.pop(UP)), (UP, "[96, 64]", "checkpoint")),
    "misshapen tensor": (
        edit_tensors(lambda tensors: tensors.update({UP: tensors[UP][:5].clone()})),
        (UP, "[5, 64]", "[96, 64]", "checkpoint"),
    ),
    "truncated weights": (truncate, ("model.safetensors", "damaged", "checkpoint")),
    "empty weights": (overwrite("model.safetensors", b""), ("model.safetensors", "damaged", "checkpoint")),
    "no weights": (
        lambda folder: (folder / "model.safetensors").unlink(),
        ("model.safetensors", "index.json"),
    ),
    "no tokenizer": (
        lambda folder: (folder / "tokenizer.json").unlink(),
        ("tokenizer.json", "fetch the model again"),
    ),
    "wrong tokenizer": (overwrite("tokenizer.json", b"{}"), ("tokenizer.json", "not a valid")),
    "no config": (lambda folder: (folder / "config.json").unlink(), ("config.json", "missing")),
    "config is no JSON": (overwrite("config.json", b'{"a": '), ("config.json", "not valid JSON")),
    "config is no text": (overwrite("config.json", b"\xff\xfe\x00"), ("config.json", "not valid JSON")),
    "config is a list": (overwrite("config.json", b"[]"), ("config.json", "JSON object")),
    "config is deep": (overwrite("config.json", b"[" * 100_000), ("config.json", "not valid JSON")),
    "template is no template": (
        overwrite("chat_template.jinja", b"{% if %}"),
        ("chat template", "not valid"),
    ),
    "template is no text": (overwrite("chat_template.jinja", b"\xff"), ("chat_template.jinja", "UTF-8")),
    "wrong end": (
        overwrite("generation_config.json", b'{"eos_token_id": ["x"]}'),
        ("generation_config.json", "eos_token_id"),
    ),
    "unknown architecture": (
        edit_config(architectures=["GPT9ForCausalLM"]),
        ("GPT9ForCausalLM", "LlamaForCausalLM"),
    ),
    "no architecture": (edit_config(architectures=None), ("config.json", "architectures")),
    "missing key": (edit_config(num_hidden_layers=None), ("config.json", "num_hidden_layers")),
    "key of a wrong type": (edit_config(hidden_size="64"), ("config.json", "hidden_size", "'64'")),
    "key out of range": (edit_config(num_attention_heads=0), ("config.json", "num_attention_heads")),
    "endless key": (edit_config(hidden_size=float("inf")), ("config.json", "hidden_size")),
    "more layers than weights": (edit_config(num_hidden_layers=3), ("model.layers.2.", "config.json")),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_model_directory_is_explained(fault: str, whole: Path, tmp_path: Path) -> None:
    spoil, words = BROKEN[fault]
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    spoil(folder)
    check_start_fails(str(folder), words)


def test_what_is_no_directory_is_explained(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"x")
    check_start_fails(str(file), (str(file), "directory"))
    check_start_fails(str(tmp_path / "nowhere"), ("nowhere", "does not exist"))


def test_random_weights_need_no_tokenizer(tmp_path: Path) -> None:
    folder = write_config(tmp_path / "shape", vocab_size=1 << 16)
    small = ("--load-format", "dummy", "--kv-memory", "16MiB", "--mixed", "1")
    with serving(str(folder), *small) as url, httpx.Client(base_url=url, timeout=60) as client:
        answer = client.post(
            CHAT, json={"messages": [{"role": "user", "content": "hi"}], "max_tokens": 8, "ignore_eos": True}
        )
        assert answer.status_code == 200 and answer.json()["usage"]["completion_tokens"] == 8
    check_start_fails(str(folder), ("tokenizer.json", "fetch the model again"))
    tiny = write_config(tmp_path / "tiny")
    check_start_fails(str(tiny), ("vocab_size", "160", "tokenizer.json"), "--load-format", "dummy")


def check_start_fails(model: str, words: tuple[str, ...], *arguments: str) -> None:
    """Exit code 2, and one message that holds ``words``."""
    command = [
        sys.executable,
        "-m",
        "diptych",
        "serve",
        model,
        "--port",
        "0",
        "--kv-memory",
        "16MiB",
        "--mixed",
        "1",
    ]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr[-2000:]
    assert "Traceback" not in done.stderr and done.stdout == ""
    (message,) = [line for line in done.stderr.splitlines() if line.startswith("diptych: ")]
    assert [word for word in words if word not in message] == [], message
