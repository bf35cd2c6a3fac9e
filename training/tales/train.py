"""Training of the built-in model from nothing but a seed.

Knows the schedule and the loop. The model is exported as it stands every few hundred steps, so that an
interrupted run leaves a usable directory. A saved state goes on exactly where it was.
"""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from training.tales import data, export
from training.tales.dialogues import FIRST, LATER, Mix, Talk
from training.tales.model import Llama, Shape
from training.tales.tokenizer import learn
from training.tales.world import build_world

STEPS = 2400
STEP_TOKENS = 4096
EXPORT_EVERY = 200


@dataclass(frozen=True, slots=True)
class Plan:
    """All numbers of a run; the shares say at which part of all steps something changes."""

    steps: int = STEPS
    seed: int = 1
    peak: float = 4e-3
    warm: int = 100
    bends: tuple[tuple[float, float], ...] = ((5 / 12, 1.0), (2 / 3, 0.4), (5 / 6, 0.4), (1.0, 0.0))
    later: float = 2 / 3
    longer: float = 0.86
    longest: float = 0.97
    decay: float = 0.1

    def rate(self, step: int) -> float:
        """The learning rate: a short rise, a plateau, and down in straight lines from bend to bend."""
        at = [-1.0, self.warm - 1.0, *(share * self.steps for share, _ in self.bends)]
        return self.peak * float(np.interp(step, at, [0.0, 1.0, *(height for _, height in self.bends)]))

    def length(self, step: int) -> int:
        """The length of the rows: short by turns, and as long as any prompt at the end."""
        if step >= self.steps * self.longest:
            return 4096
        if step >= self.steps * self.longer:
            return 2048
        return 512 if step % 3 == 2 else 256

    def mix(self, step: int) -> Mix:
        """The mixture of documents: facts first, then more of what has to be worked out."""
        return LATER if step >= self.steps * self.later else FIRST


def loss_of(model: Llama, body: torch.nn.Module, tokens: Tensor, learnt: Tensor) -> Tensor:
    """The mean loss over the tokens that the model is to produce itself."""
    where = learnt[:, 1:].reshape(-1).nonzero().squeeze(-1)
    with torch.autocast("cpu", torch.bfloat16):
        stream = body(tokens[:, :-1]).reshape(-1, model.shape.width)
        scores = model.head(stream[where])
    return F.cross_entropy(scores.float(), tokens[:, 1:].reshape(-1)[where])


def optimizers_of(model: Llama, plan: Plan) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for the embedding and the gains."""
    matrices = [p for p in model.blocks.parameters() if p.ndim > 1]
    gains = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": [model.embed.weight], "weight_decay": plan.decay},
        {"params": gains, "weight_decay": 0.0},
    ]
    return [
        torch.optim.Muon(matrices, lr=plan.peak, weight_decay=plan.decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(groups, lr=plan.peak, betas=(0.9, 0.95), eps=1e-9, fused=True),
    ]


def advance(optimizers: list[torch.optim.Optimizer], rate: float) -> None:
    """One step of every optimizer at a learning rate."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()


class Run:
    """A model in training, with all that is needed to go on later."""

    def __init__(self, plan: Plan, folder: Path, state: Path | None) -> None:
        torch.manual_seed(plan.seed)
        self.plan, self.folder, self.state = plan, folder, state
        self.talk = Talk(build_world())
        self.tokenizer = learn(self.talk, plan.seed)
        self.model = Llama(Shape(vocab=self.tokenizer.get_vocab_size()))
        self.body = torch.compile(self.model, dynamic=False)
        self.optimizers = optimizers_of(self.model, plan)
        self.done = 0
        if state and state.exists():
            self.load(state)

    def load(self, state: Path) -> None:
        """Takes up a saved state."""
        saved = torch.load(state, weights_only=True)
        self.model.load_state_dict(saved["model"])
        for optimizer, kept in zip(self.optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        self.done = saved["done"]

    def save(self) -> None:
        """Exports the model as it stands, and keeps the state if asked to."""
        export.write(self.model, self.tokenizer, self.folder)
        if self.state:
            kept = [optimizer.state_dict() for optimizer in self.optimizers]
            fresh = self.state.with_suffix(".new")
            torch.save({"model": self.model.state_dict(), "optimizers": kept, "done": self.done}, fresh)
            os.replace(fresh, self.state)

    def step(self) -> float:
        """One step; its loss."""
        plan, number = self.plan, self.done
        length = plan.length(number)
        seed = plan.seed * 1_000_000 + number
        size = STEP_TOKENS // length
        tokens, learnt = data.batch(self.tokenizer, self.talk, seed, size, length, plan.mix(number))
        loss = loss_of(self.model, self.body, torch.from_numpy(tokens), torch.from_numpy(learnt))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        advance(self.optimizers, plan.rate(number))
        self.done += 1
        return loss.item()

    def all_steps(self) -> None:
        """Every step that is left, with a bar that shows how far it is."""
        mean = 0.0
        with _progress() as bar:
            task = bar.add_task("training", total=self.plan.steps, completed=self.done, loss="")
            while self.done < self.plan.steps:
                loss = self.step()
                mean = 0.98 * mean + 0.02 * loss if mean else loss
                bar.update(task, advance=1, loss=f"{mean:.4f}")
                if self.done % EXPORT_EVERY == 0 or self.done == self.plan.steps:
                    self.save()
                    bar.print(f"step {self.done}: loss {mean:.4f}")


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TimeRemainingColumn(),
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train the built-in model.")
    parser.add_argument("--out", type=Path, required=True, help="the model directory to write")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--state", type=Path, help="a file to keep the state in, taken up if it exists")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    Run(Plan(steps=args.steps, seed=args.seed), args.out, args.state).all_steps()


if __name__ == "__main__":
    main()
