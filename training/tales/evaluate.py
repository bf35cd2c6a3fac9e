"""How well an exported model answers, measured on what training never showed it.

Knows questions, right answers and a model directory. Loads the model as anybody would, through transformers.
Held out are pairs of phrasing and subject for facts, and the seed for everything made up on the spot.
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from training.tales import checks, facts, reading, smalltalk
from training.tales.chat import Document, Turn, exchange
from training.tales.dialogues import Talk
from training.tales.world import World, build_world

SEED = 990_017
SAMPLE_ASKS = (
    "Hello!",
    "Who are you?",
    "Where does Mira live?",
    "Who is the baker?",
    "Does Tam have a pet?",
    "How do I get from Saltmere to Larkmoor?",
    "What is the capital of France?",
    "Who is Quexlin?",
    "Tell me a tale about Mira.",
)


@dataclass(frozen=True, slots=True)
class Trial:
    """A conversation that ends with a question, the whole answer, and what the answer must contain."""

    history: Document
    answer: str
    core: str


def as_trial(document: Document, core: str | None = None) -> Trial:
    """The last turn of a document as the answer to be found."""
    return Trial(document[:-1], document[-1].text, core or document[-1].text)


class Answerer:
    """A loaded model directory."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self.model = AutoModelForCausalLM.from_pretrained(folder).eval()

    def prompt(self, history: Document) -> str:
        """The conversation as the chat template writes it."""
        turns = [{"role": turn.role, "content": turn.text} for turn in history]
        return self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)

    @torch.inference_mode()
    def answers(self, histories: list[Document], most: int = 64, batch: int = 32) -> list[str]:
        """The greedy answers, each cut after `most` tokens."""
        out: list[str] = []
        for start in range(0, len(histories), batch):
            texts = [self.prompt(history) for history in histories[start : start + batch]]
            fed = self.tokenizer(texts, return_tensors="pt", padding=True, return_token_type_ids=False)
            made = self.model.generate(
                **fed, max_new_tokens=most, do_sample=False, temperature=None, top_p=None
            )
            fresh = made[:, fed["input_ids"].shape[1] :]
            out += self.tokenizer.batch_decode(fresh, skip_special_tokens=True)
        return out

    @torch.inference_mode()
    def perplexity(self, texts: list[str]) -> float:
        """The perplexity of bare texts, from their second token on."""
        total, count = 0.0, 0
        for text in texts:
            ids = self.tokenizer(text, return_tensors="pt", return_token_type_ids=False)["input_ids"]
            loss = self.model(input_ids=ids, labels=ids).loss.item()
            total += loss * (ids.shape[1] - 1)
            count += ids.shape[1] - 1
        return math.exp(total / count)


def held_out_facts(world: World) -> list[Trial]:
    """Every held-out pair of phrasing and subject, but for portraits, which follow-ups ask for by name."""
    held = [f for f in facts.all_facts(world) if f.held_out and f.kind != "about"]
    return [Trial([Turn("user", f.ask)], f.answer, f.short) for f in held]


def follow_ups(world: World, count: int) -> list[Trial]:
    """Questions with a pronoun after one or two questions about the same person."""
    rng = Random(SEED)
    talk = Talk(world)
    return [as_trial(talk.follow(rng)) for _ in range(count)]


def pairs(make: Callable[[Random], tuple[str, str]], count: int) -> list[Trial]:
    """Single questions from a maker of question and answer."""
    rng = Random(SEED + 1)
    return [as_trial(exchange(*make(rng))) for _ in range(count)]


def readings(count: int, people: int) -> list[Trial]:
    """Questions about a passage of that many invented people, given just before the question."""
    rng = Random(SEED + 2)
    trials = []
    for _ in range(count):
        text, questions = reading.passage(rng, people)
        ask, answer = questions[0]
        trials.append(as_trial(exchange(f"{text}\n\n{ask}", answer)))
    return trials


def late_facts(world: World, count: int, turns: int) -> list[Trial]:
    """Held-out questions at the end of a chat of many unrelated turns."""
    rng = Random(SEED + 3)
    talk = Talk(world)
    ends = [f for f in facts.all_facts(world) if f.held_out]
    trials = []
    for _ in range(count):
        before = [turn for _ in range(turns) for turn in exchange(*_seen(talk, rng))]
        f = rng.choice(ends)
        trials.append(Trial([*before, Turn("user", f.ask)], f.answer, f.short))
    return trials


def _seen(talk: Talk, rng: Random) -> tuple[str, str]:
    f = talk.fact(rng)
    return f.ask, f.answer


def tales(world: World, count: int) -> list[str]:
    """Bare tales in wordings drawn from a seed of their own."""
    rng = Random(SEED + 4)
    talk = Talk(world)
    return [document[0].text for document in islice(iter(lambda: talk.bare(rng), None), count)]


def trials_of(world: World) -> dict[str, list[Trial]]:
    """Every set of trials by its name."""
    people = world.people
    return {
        "held-out facts": held_out_facts(world),
        "follow-ups": follow_ups(world, 120),
        "claims": pairs(lambda rng: checks.claim(rng, world, rng.choice(people)), 120),
        "strangers": pairs(smalltalk.stranger, 60),
        "unknown": pairs(smalltalk.unknown, 60),
        "reading, 2 people": readings(60, 2),
        "reading, 5 people": readings(60, 5),
        "reading, 20 people": readings(24, 20),
        "facts after a long chat": late_facts(world, 24, 50),
    }


def score(
    answerer: Answerer, trials: list[Trial], batch: int = 32
) -> tuple[float, float, list[tuple[Trial, str]]]:
    """The shares of exact and of containing answers, and the trials that missed."""
    got = answerer.answers([trial.history for trial in trials], batch=batch)
    exact = [said.strip() == trial.answer for trial, said in zip(trials, got, strict=True)]
    held = [trial.core.lower() in said.lower() for trial, said in zip(trials, got, strict=True)]
    missed = [(trial, said) for trial, said, ok in zip(trials, got, held, strict=True) if not ok]
    return sum(exact) / len(trials), sum(held) / len(trials), missed


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure an exported model.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--misses", type=int, default=3, help="how many misses to show per set")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    world = build_world()
    answerer = Answerer(args.folder)
    for name, trials in trials_of(world).items():
        long = max(len(answerer.tokenizer(answerer.prompt(t.history))["input_ids"]) for t in trials)
        exact, held, missed = score(answerer, trials, 4 if long > 600 else 32)
        print(
            f"{name:24} n={len(trials):4}  longest prompt {long:5}  exact {exact:6.1%}  contains {held:6.1%}"
        )
        for trial, said in missed[: args.misses]:
            print(
                f"    asked {trial.history[-1].text[-90:]!r}\n    said  {said!r}\n    right {trial.answer!r}"
            )
    print(f"perplexity on unseen tales: {answerer.perplexity(tales(world, 60)):.3f}")
    for ask, said in zip(
        SAMPLE_ASKS, answerer.answers([[Turn("user", a)] for a in SAMPLE_ASKS], 240), strict=True
    ):
        print(f"\n> {ask}\n{said}")


if __name__ == "__main__":
    main()
