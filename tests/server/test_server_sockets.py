"""Over real sockets: clients that leave in every phase, silent streams, big bodies, the official client."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import threading
from typing import Any

import httpx
import openai
import pytest

from diptych.server.text.tokenizer import TextTokenizer
from support.api_client import CHAT, MESSAGES, TEXT, events_of, real_server
from support.fake_frontend import FakeFrontend, rejected
from support.tiny_model import EOS, ids_of, tiny_model, tiny_tokenizer


def saying(text: str = "the fox said") -> FakeFrontend:
    return FakeFrontend(lambda _: [*ids_of(text), EOS])


def held(at: int) -> FakeFrontend:
    """A cluster that says nothing from token ``at`` on."""
    frontend = saying()
    frontend.hold_at[at] = asyncio.Event()
    return frontend


async def until_aborted(frontend: FakeFrontend, count: int) -> None:
    async with asyncio.timeout(10):
        while len(frontend.aborted) < count:
            await asyncio.sleep(0.005)


# ---------------------------------------------------------------- the client leaves


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("at", [0, 3])
async def test_leaving_aborts_all_choices_in_every_phase(stream: bool, at: int) -> None:
    frontend = held(at)
    body = {"messages": MESSAGES, "n": 2, "stream": stream}
    async with real_server(frontend) as url:
        async with httpx.AsyncClient(base_url=url) as client:
            posting = asyncio.create_task(client.post(CHAT, json=body))
            await frontend.reach(at).wait()
            assert frontend.aborted == []
            posting.cancel()
            await asyncio.wait((posting,))
        await until_aborted(frontend, 2)
        assert frontend.live == []
        async with httpx.AsyncClient(base_url=url) as client:
            metrics = (await client.get("/metrics")).text
            assert 'diptych_requests_total{outcome="aborted"} 2.0' in metrics


async def test_leaving_after_the_first_chunk_aborts() -> None:
    frontend = held(3)
    async with real_server(frontend) as url, httpx.AsyncClient(base_url=url) as client:
        async with client.stream("POST", CHAT, json={"messages": MESSAGES, "stream": True}) as response:
            async for line in response.aiter_lines():
                assert line.startswith("data: ")
                break
        await until_aborted(frontend, 1)


async def test_what_has_ended_is_not_aborted() -> None:
    frontend = saying()
    async with real_server(frontend) as url, httpx.AsyncClient(base_url=url) as client:
        for stream in (False, True):
            await client.post(CHAT, json={"messages": MESSAGES, "stream": stream})
    assert frontend.aborted == [] and len(frontend.requests) == 2


async def test_shutting_down_aborts_what_still_runs() -> None:
    frontend = held(3)
    async with httpx.AsyncClient() as client:
        async with real_server(frontend) as url:
            posting = asyncio.create_task(
                client.post(url + CHAT, json={"messages": MESSAGES, "stream": True})
            )
            await frontend.reach(3).wait()
        await until_aborted(frontend, 1)
        assert frontend.live == []
        await asyncio.wait((posting,))


# ---------------------------------------------------------------- silence


async def test_a_silent_stream_is_kept_alive() -> None:
    frontend = held(0)
    async with real_server(frontend, keep_alive_s=0.02) as url, httpx.AsyncClient(base_url=url) as client:
        lines: list[str] = []
        async with client.stream("POST", CHAT, json={"messages": MESSAGES, "stream": True}) as response:
            async for line in response.aiter_lines():
                lines.append(line)
                if lines.count(": keep-alive") == 2:
                    frontend.hold_at[0].set()
        assert lines[0] == ": keep-alive"
        events = events_of("\n".join(lines))
        assert events[0]["choices"][0]["delta"]["role"] == "assistant" and events[-1] == "[DONE]"


async def test_a_refusal_after_a_comment_is_a_frame() -> None:
    frontend = held(0)
    frontend.fail_at[0] = rejected
    async with real_server(frontend, keep_alive_s=0.02) as url, httpx.AsyncClient(base_url=url) as client:
        text = ""
        async with client.stream("POST", CHAT, json={"messages": MESSAGES, "stream": True}) as response:
            async for part in response.aiter_text():
                text += part
                frontend.hold_at[0].set()
        (error,) = events_of(text)
        assert error["error"]["code"] == "server_overloaded"


# ---------------------------------------------------------------- big and broken bodies


async def test_a_huge_body_leaves_the_connection_usable() -> None:
    async with real_server(saying()) as url, httpx.AsyncClient(base_url=url) as client:
        huge = await client.post(TEXT, content=json.dumps({"prompt": "x" * 10_000_000}).encode())
        assert huge.status_code == 413 and huge.json()["error"]["code"] == "request_too_large"
        assert (await client.post(TEXT, json={"prompt": "a"})).status_code == 200


class Slow(TextTokenizer):
    """Takes as long as it is told to."""

    def __init__(self) -> None:
        super().__init__(tiny_tokenizer().raw)
        self.asked, self.go = threading.Event(), threading.Event()

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        self.asked.set()
        self.go.wait(20)
        return super().encode(text, add_special_tokens=add_special_tokens)


@pytest.mark.parametrize("path", [CHAT, TEXT])
async def test_what_cannot_fit_is_refused_without_tokenising_it(path: str) -> None:
    tokenizer, huge = Slow(), "the fox " * 900_000
    model = dataclasses.replace(tiny_model(), tokenizer=tokenizer)
    body = {CHAT: {"messages": [{"role": "user", "content": huge}]}, TEXT: {"prompt": huge}}[path]
    async with real_server(saying(), model=model) as url, httpx.AsyncClient(base_url=url) as client:
        response = await client.post(path, json=body, timeout=30)
    assert response.status_code == 400 and response.json()["error"]["code"] == "context_length_exceeded"
    assert str(model.max_model_tokens) in response.json()["error"]["message"]
    assert not tokenizer.asked.is_set()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("stays", [False, True])
async def test_a_long_text_is_tokenised_beside_everything_else(
    stream: bool, stays: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Others are answered meanwhile; a client that leaves meanwhile costs the cluster nothing."""
    caplog.set_level("INFO", "diptych.server.app")
    frontend, tokenizer = saying(), Slow()
    model = dataclasses.replace(tiny_model(max_model_tokens=50_000), tokenizer=tokenizer)
    body = {"prompt": "the fox " * 3_000, "stream": stream, "max_tokens": 2}
    async with real_server(frontend, model=model) as url, httpx.AsyncClient(base_url=url) as other:
        async with httpx.AsyncClient(base_url=url) as client:
            posting = asyncio.create_task(client.post(TEXT, json=body, timeout=30))
            await asyncio.to_thread(tokenizer.asked.wait, 20)
            assert (await other.get("/health")).status_code == 200
            assert not posting.done()
            if stays:
                tokenizer.go.set()
                assert (await posting).status_code == 200
            else:
                posting.cancel()
                await asyncio.wait((posting,))
                async with asyncio.timeout(10):
                    while "client left before the answer" not in caplog.text:
                        await asyncio.sleep(0.005)
        tokenizer.go.set()
        assert (await other.post(TEXT, json={"prompt": "a"})).status_code == 200
    assert len(frontend.requests) == (2 if stays else 1) and frontend.live == []


async def test_a_client_that_leaves_while_sending_harms_nobody() -> None:
    async with real_server(saying()) as url:
        host, port = url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        head = (f"POST {TEXT} HTTP/1.1", "host: x", "content-type: application/json", "content-length: 100")
        writer.write(("\r\n".join(head) + "\r\n\r\n{").encode())
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        async with httpx.AsyncClient(base_url=url) as client:
            assert (await client.post(TEXT, json={"prompt": "a"})).status_code == 200


# ---------------------------------------------------------------- the official client


async def test_the_official_client_chats_and_streams() -> None:
    frontend = saying("the fox 🙂")
    async with real_server(frontend, api_keys=("k",)) as url:
        client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0)
        messages: list[Any] = MESSAGES
        answer = await client.chat.completions.create(
            model="tiny", messages=messages, logprobs=True, top_logprobs=1
        )
        assert answer.choices[0].message.content == "the fox 🙂"
        assert answer.choices[0].logprobs and answer.choices[0].logprobs.content
        assert answer.usage and answer.usage.prompt_tokens_details
        assert answer._request_id and answer._request_id.startswith("req-")
        stream = await client.chat.completions.create(
            model="tiny", messages=messages, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
        assert text == "the fox 🙂" and chunks[-1].usage == answer.usage
        completion = await client.completions.create(model="tiny", prompt="a", echo=True, logprobs=1)
        assert completion.choices[0].text == "athe fox 🙂"
        assert [model.id async for model in client.models.list()] == ["tiny", "org/tiny"]
        assert (await client.models.retrieve("tiny")).id == "tiny"
        await client.close()


async def test_the_official_client_understands_errors() -> None:
    frontend = saying()
    async with real_server(frontend, api_keys=("k",)) as url:
        client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0)
        messages: list[Any] = MESSAGES
        with pytest.raises(openai.BadRequestError) as bad:
            await client.chat.completions.create(model="tiny", messages=messages, temperature=3)
        assert bad.value.param == "temperature" and bad.value.code == "invalid_value"
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(model="gpt-9", messages=messages)
        with pytest.raises(openai.AuthenticationError):
            await client.with_options(api_key="wrong").models.list()
        frontend.fail_at[2] = rejected
        with pytest.raises(openai.APIError) as caught:
            stream = await client.chat.completions.create(model="tiny", messages=messages, stream=True)
            async for _ in stream:
                pass
        assert caught.value.code == "server_overloaded"
        frontend.fail_at[0] = rejected
        with pytest.raises(openai.InternalServerError) as busy:
            await client.chat.completions.create(model="tiny", messages=messages, stream=True)
        assert busy.value.status_code == 503
        await client.close()
