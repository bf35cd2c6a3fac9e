"""What the README tells a newcomer to type is right."""

from __future__ import annotations

import json
import re

from diptych.builtin import BUILTIN_MODEL_NAME
from diptych.cli.main import build_app
from diptych.cli.options import HttpFlags
from support.documents import code_blocks, inline_code
from support.source import REPOSITORY

README = REPOSITORY / "README.md"
URL = f"http://{HttpFlags().host}:{HttpFlags().port}/v1"


def test_the_python_block_runs_against_the_default_server() -> None:
    (block,) = code_blocks(README, "python")
    compile(block, "README.md", "exec")
    assert f'base_url="{URL}"' in block
    assert f'model="{BUILTIN_MODEL_NAME}"' in block


def test_the_curl_block_sends_valid_json_to_the_default_server() -> None:
    (block,) = [block for block in code_blocks(README, "sh") if "curl" in block]
    assert f"{URL}/chat/completions" in block
    body = re.search(r"-d '(.*)'", block)
    assert body
    request = json.loads(body.group(1))
    assert request["model"] == BUILTIN_MODEL_NAME
    assert request["messages"][0]["role"] == "user"


def test_the_first_command_is_make_run() -> None:
    assert code_blocks(README, "sh")[0] == "make run\n"


def test_named_commands_exist() -> None:
    app = build_app()
    named = {match.group(1) for code in inline_code(README) if (match := re.match(r"diptych (\w+)", code))}
    assert named
    assert [name for name in named if name not in app] == []


def test_named_flags_exist() -> None:
    text = README.read_text(encoding="utf-8")
    flags = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))
    shown = set[str]()
    for command in ("serve", "generate", "plan", "simulate"):
        arguments = build_app()[command].assemble_argument_collection()
        shown |= {name for argument in arguments for name in argument.names}
    assert flags <= shown, flags - shown
