"""The built-in model: what ships, how it reads and writes text, and whether it knows its world."""

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.builtin import BUILTIN_MODEL_NAME, builtin_model_dir

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from training.tales.world import Person, World, build_world  # noqa: E402

LIMIT = 8_000_000
FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)


@pytest.fixture(scope="module")
def world() -> World:
    return build_world()


@pytest.fixture(scope="module")
def tokenizer():
    tokenizers = pytest.importorskip("tokenizers")
    return tokenizers.Tokenizer.from_file(str(builtin_model_dir() / "tokenizer.json"))


@pytest.fixture(scope="module")
def chat_tokenizer():
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(builtin_model_dir())


@pytest.fixture(scope="module")
def answer(chat_tokenizer):
    """A function from the turns of a chat to the greedy answer."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(builtin_model_dir()).eval()

    def ask(*texts: str, most: int = 48) -> str:
        roles = ("user", "assistant")
        turns = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
        prompt = chat_tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        fed = chat_tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        with torch.inference_mode():
            made = model.generate(**fed, max_new_tokens=most, do_sample=False, temperature=None, top_p=None)
        return chat_tokenizer.decode(made[0, fed["input_ids"].shape[1] :], skip_special_tokens=True)

    return ask


def test_everything_is_there_and_small() -> None:
    folder = builtin_model_dir()
    assert BUILTIN_MODEL_NAME == "diptych-tales"
    assert all((folder / name).is_file() for name in FILES)
    assert sum(path.stat().st_size for path in folder.iterdir()) <= LIMIT


def test_the_config_asks_for_a_tied_llama_in_full_precision() -> None:
    config = json.loads((builtin_model_dir() / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["tie_word_embeddings"] is True
    assert config["dtype"] == "float32"
    assert config["max_position_embeddings"] == 4096


def test_weights_are_stored_in_bfloat16() -> None:
    safetensors = pytest.importorskip("safetensors")
    pytest.importorskip("torch")
    with safetensors.safe_open(builtin_model_dir() / "model.safetensors", "pt") as file:
        assert "lm_head.weight" not in file.keys()  # noqa: SIM118
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"BF16"}  # noqa: SIM118


@given(st.text())
def test_any_text_comes_back(text: str) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    reader = tokenizers.Tokenizer.from_file(str(builtin_model_dir() / "tokenizer.json"))
    assert reader.decode(reader.encode(text).ids, skip_special_tokens=False) == text


def test_marks_are_single_tokens(tokenizer) -> None:
    marks = ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
    assert all(len(tokenizer.encode(mark).ids) == 1 for mark in marks)
    config = json.loads((builtin_model_dir() / "config.json").read_text())
    assert config["eos_token_id"] == tokenizer.token_to_id("<|end|>")


def test_the_template_writes_turns(chat_tokenizer) -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello!"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": [{"type": "text", "text": "Where?"}]},
    ]
    told = chat_tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert told == (
        "<|system|>Be brief.<|end|><|user|>Hello!<|end|><|assistant|>Hello.<|end|>"
        "<|user|>Where?<|end|><|assistant|>"
    )
    assert chat_tokenizer.apply_chat_template(turns[1:2], tokenize=False) == "<|user|>Hello!<|end|>"


def test_the_template_refuses_an_unknown_role(chat_tokenizer) -> None:
    jinja2 = pytest.importorskip("jinja2")
    with pytest.raises(jinja2.TemplateError):
        chat_tokenizer.apply_chat_template([{"role": "crowd", "content": "Hey"}], tokenize=False)


def test_the_world_is_the_same_for_its_seed() -> None:
    assert build_world(3) == build_world(3)
    assert build_world(3) != build_world(4)


@pytest.mark.parametrize("seed", range(20))
def test_the_world_agrees_with_itself(seed: int) -> None:
    world = build_world(seed)
    for p in world.people:
        assert world.person(p.friend).friend == p.name
        assert world.person(p.friend).village != p.village
        assert p.legend.target != p.village
        assert p.parent is None or p.name in world.person(p.parent).children
        assert p.sibling is None or world.person(p.sibling).sibling == p.name
    for key in (_pet, _craft, _treasure, _item):
        assert len({key(p) for p in world.people}) == len(world.people)


def test_roads_take_the_shorter_way(world: World) -> None:
    for a in world.villages:
        for b in world.villages:
            if a is not b:
                road = world.road(a.name, b.name)
                assert road[-1] == b.name
                assert len(road) == len(set(road)) <= len(world.villages) // 2


def test_it_knows_its_people(answer, world: World) -> None:
    right = 0
    for p in world.people[:8]:
        right += p.village in answer(f"Where does {p.name} live?")
        right += p.pet in answer(f"What animal does {p.name} have?")
        right += p.name in answer(f"Who is the {p.craft}?")
    assert right >= 22


def test_it_follows_a_pronoun(answer, world: World) -> None:
    p = world.people[0]
    opening = answer(f"Who is the {p.craft}?")
    assert p.name in opening
    assert p.friend in answer(f"Who is the {p.craft}?", opening, f"Who is {p.his} best friend?")


def test_it_tells_a_tale(answer, world: World) -> None:
    p = world.people[2]
    tale = answer(f"Tell me a tale about {p.name}.", most=240)
    assert p.name in tale
    assert p.village in tale
    assert p.legend.item in tale


def test_it_admits_what_it_does_not_know(answer) -> None:
    assert "do not know" in answer("What is the capital of France?")


def _pet(p: Person) -> str:
    return p.pet


def _craft(p: Person) -> str:
    return p.craft


def _treasure(p: Person) -> str:
    return p.treasure


def _item(p: Person) -> str:
    return p.legend.item
