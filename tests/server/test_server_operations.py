"""Probes, keys, metrics, timelines of ended requests, documentation, request ids."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from support.api_client import CHAT, MESSAGES, TEXT, client_of
from support.fake_frontend import FakeFrontend, rejected
from support.tiny_model import EOS, ids_of

OPEN = ("/health", "/live", "/ready", "/ping", "/version", "/metrics")
GUARDED = ("/v1/models", "/v1/models/tiny", "/load", "/requests/x")


def saying(text: str = "the fox") -> FakeFrontend:
    return FakeFrontend(lambda _: [*ids_of(text), EOS])


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


# ---------------------------------------------------------------- probes


async def test_ready_follows_the_cluster_and_health_does_not() -> None:
    frontend = saying()
    frontend.is_ready = False
    async with client_of(frontend) as client:
        for path in ("/health", "/live", "/ping"):
            assert (await client.get(path)).status_code == 200
        waiting = await client.get("/ready")
        assert waiting.status_code == 503 and waiting.json()["error"]["code"] == "not_ready"
        frontend.is_ready = True
        assert (await client.get("/ready")).status_code == 200
        assert set((await client.get("/version")).json()) == {"version", "python"}


# ---------------------------------------------------------------- keys


async def test_without_keys_nobody_is_asked() -> None:
    async with client_of(saying()) as client:
        for path in (*OPEN, "/v1/models", "/load"):
            assert (await client.get(path)).status_code == 200


async def test_keys_guard_the_api_and_operations() -> None:
    async with client_of(saying(), api_keys=("k1", "k2")) as client:
        for path in OPEN:
            assert (await client.get(path)).status_code == 200
        for path in GUARDED:
            for headers in ({}, bearer("k3"), {"authorization": "Basic k1"}, bearer("")):
                response = await client.get(path, headers=headers)
                assert response.status_code == 401 and response.json()["error"]["code"] == "invalid_api_key"
            assert (await client.get(path, headers=bearer("k2"))).status_code in (200, 404)
        assert (await client.post(TEXT, json={"prompt": "a"})).status_code == 401
        assert (await client.post(TEXT, json={"prompt": "a"}, headers=bearer("k1"))).status_code == 200


async def test_metrics_can_be_guarded() -> None:
    async with client_of(saying(), api_keys=("k",), protect_metrics=True) as client:
        assert (await client.get("/metrics")).status_code == 401
        assert (await client.get("/metrics", headers=bearer("k"))).status_code == 200


async def test_tenants_share_no_prompt_cache_unless_they_want_to() -> None:
    frontend = saying()
    async with client_of(frontend, api_keys=("k1", "k2")) as client:
        for key, salt in (("k1", None), ("k2", None), ("k1", None), ("k1", "s"), ("k2", "s")):
            body = {"messages": MESSAGES, "cache_salt": salt}
            assert (await client.post(CHAT, json=body, headers=bearer(key))).status_code == 200
    one, two, one_again, shared, shared_again = (request.cache_root for request in frontend.requests)
    assert one == one_again and shared == shared_again and len({one, two, shared}) == 3


def test_keys_are_not_shown() -> None:
    from diptych.server.config import ServerConfig

    assert "secret" not in repr(ServerConfig(api_keys=("secret",)))


# ---------------------------------------------------------------- request ids


async def test_the_request_id_is_accepted_and_echoed() -> None:
    async with client_of(saying()) as client:
        response = await client.get("/health", headers={"x-request-id": "abc-1"})
        assert response.headers["x-request-id"] == "abc-1"
        for unusable in ("a b", "x" * 201, ""):
            response = await client.get("/health", headers={"x-request-id": unusable})
            assert response.headers["x-request-id"].startswith("req-")


async def test_a_client_may_choose_the_id_of_its_answer_even_twice() -> None:
    frontend = saying()
    async with client_of(frontend) as client:
        for _ in range(2):
            answer = await client.post(CHAT, json={"messages": MESSAGES, "request_id": "mine"})
            assert answer.json()["id"] == "chatcmpl-mine"
        found = (await client.get("/requests/chatcmpl-mine")).json()["requests"]
    assert len(found) == 2 and len({request.request_id for request in frontend.requests}) == 2


# ---------------------------------------------------------------- what is remembered


async def test_an_ended_request_can_be_looked_up() -> None:
    frontend = saying()
    async with client_of(frontend) as client:
        answer = (await client.post(CHAT, json={"messages": MESSAGES, "n": 2})).json()
        found = (await client.get(f"/requests/{answer['id']}")).json()
        assert [entry["report"]["request_id"] for entry in found["requests"]] == [
            f"{answer['id']}-0", f"{answer['id']}-1"
        ]  # fmt: skip
        first = found["requests"][0]
        assert first["report"]["placements"][0]["decode_worker"] == "decode-0"
        moments = first["report"]["moments"]
        assert sum(first["timeline"]["phases_s"].values()) == pytest.approx(
            moments["flushed"] - moments["received"]
        )
        one = await client.get(f"/requests/{answer['id']}-1")
        assert one.status_code == 200 and len(one.json()["requests"]) == 1
        assert (await client.get("/requests/nope")).status_code == 404


async def test_only_the_latest_requests_are_remembered() -> None:
    async with client_of(saying(), reports=2) as client:
        ids = [(await client.post(CHAT, json={"messages": MESSAGES})).json()["id"] for _ in range(3)]
        statuses = [(await client.get(f"/requests/{name}")).status_code for name in ids]
    assert statuses == [404, 200, 200]


async def test_server_timing_shows_the_phases() -> None:
    async with client_of(saying()) as client:
        header = (await client.post(CHAT, json={"messages": MESSAGES})).headers["server-timing"]
    names = [part.split(";")[0] for part in header.split(", ")]
    assert names == ["prefill_queue", "prefill", "decode_queue", "decode"]
    assert all(float(part.split("dur=")[1]) > 0 for part in header.split(", "))


async def test_the_load_is_shown() -> None:
    async with client_of(saying()) as client:
        load = (await client.get("/load")).json()
    assert load["model"] == "tiny" and load["workers"][0]["stats"]["held_blocks"] == 3


# ---------------------------------------------------------------- metrics


async def test_metrics_add_up() -> None:
    frontend = saying("the fox")
    frontend.cached_tokens = 3
    async with client_of(frontend) as client:
        usage = (await client.post(CHAT, json={"messages": MESSAGES})).json()["usage"]
        await client.post(CHAT, json={"messages": MESSAGES, "max_tokens": 1})
        frontend.fail_at[0] = rejected
        await client.post(CHAT, json={"messages": MESSAGES})
        response = await client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }
    assert found["diptych_requests_total", "stop"] == found["diptych_requests_total", "length"] == 1
    assert found["diptych_requests_total", "rejected"] == 1
    assert found["diptych_admission_rejections_total", "server_overloaded"] == 1
    assert found["diptych_ttft_seconds_count",] == 2
    assert found["diptych_tpot_seconds_count",] == 1, "one token has no time between tokens"
    assert found["diptych_itl_seconds_count",] == usage["completion_tokens"] - 1
    assert found["diptych_output_tokens_total",] == usage["completion_tokens"] + 1
    assert found["diptych_prompt_tokens_total", "cached"] == 6 == found["diptych_prefix_cache_hits_total",]
    assert found["diptych_prefix_cache_queries_total",] == 2 * usage["prompt_tokens"]
    assert found["diptych_handoff_bytes_total", "lent"] == 128
    assert found["diptych_phase_seconds_count", "prefill"] == 2
    assert found["diptych_kv_blocks_used_ratio", "mixed", "mixed-0"] == 0.3
