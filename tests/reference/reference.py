"""Trains an exported model as a configuration says, in plain PyTorch, and prints lines like those of metrics.jsonl.

    python reference.py JOB.yaml EXPORT     # EXPORT: written by the same configuration with `training.steps: 0`

Independent of what it checks: it follows the contract's formulas and nothing else, in double precision. The order of data must be unshuffled.
"""

import json
import math
import sys
from pathlib import Path

import layer_skip
import torch
import yaml
from corpus import Samples
from early_exit import EarlyExitModel
from early_exit_gpt2 import EarlyExitGpt2
from early_exit_llama import EarlyExitLlama

ARCHITECTURES = {"llama": EarlyExitLlama, "gpt2": EarlyExitGpt2}


def learning_rate(optimizer: dict, t: int, steps: int) -> float:
    schedule = optimizer.get("lr_schedule", {})
    name, warmup, lowest = (schedule.get(k, d) for k, d in (("name", "constant"), ("warmup_steps", 0), ("min_lr", 0.0)))
    lr, lowest = float(optimizer["lr"]), float(lowest)
    if t <= warmup:
        return lr * t / warmup
    if name == "wsd":
        decay = schedule["decay_steps"]
        return lr + (lowest - lr) * max(0, t - (steps - decay)) / decay
    u = (t - warmup) / (steps - warmup)
    return {"constant": lr,
            "cosine": lowest + (lr - lowest) * (1 + math.cos(math.pi * u)) / 2,
            "linear": lowest + (lr - lowest) * (1 - u)}[name]


def exit_scale(exit_loss: dict, t: int) -> float:
    schedule, warmup = exit_loss.get("schedule", "constant"), exit_loss.get("warmup_steps", 0)
    if schedule == "constant" or t >= warmup:
        return 1.0
    u = t / warmup
    start = float(exit_loss.get("start_scale", 0.0))
    return start + (1 - start) * (u if schedule == "linear" else (1 - math.cos(math.pi * u)) / 2)


class Optimizer:
    """torch's own update rules, with the decay put before the step; SGD's in torch is not decoupled."""

    def __init__(self, config: dict, model: EarlyExitModel, frozen: bool):
        """frozen: exits alone learn, each clipped by its own norm."""
        self.config = config
        self.clipped = {}  # together, by exit
        scales = {f"exits.{e['layer']}.": float(e["lr_scale"]) for e in model.exits}
        self.groups = []
        for name, weight in model.weights.items():
            if frozen and not name.startswith("exits."):
                weight.requires_grad_(False)
                continue
            self.clipped.setdefault(name.split(".")[1] if frozen else "all", []).append(weight)
            scale = next((s for prefix, s in scales.items() if name.startswith(prefix)), 1.0)
            decay = float(config.get("weight_decay", 0.1)) if weight.dim() >= 2 else 0.0
            self.groups.append({"params": [weight], "weight_decay": decay, "lr_scale": scale})
        if config.get("name", "adamw") == "adamw":
            self.rule = torch.optim.AdamW(self.groups, betas=tuple(config.get("betas", (0.9, 0.95))), eps=float(config.get("eps", 1e-8)))
        else:
            groups = [g | {"decoupled": g["weight_decay"], "weight_decay": 0.0} for g in self.groups]
            self.rule = torch.optim.SGD(groups, momentum=config.get("momentum", 0.0), nesterov=config.get("nesterov", False))

    def step(self, lr: float) -> float:
        """The gradient norm before clipping."""
        clip = float(self.config.get("clip_grad_norm", 1.0))
        norms = [torch.nn.utils.clip_grad_norm_(weights, clip if clip > 0 else math.inf).item() for weights in self.clipped.values()]
        for group in self.rule.param_groups:
            group["lr"] = lr * group["lr_scale"]
            with torch.no_grad():
                group["params"][0].mul_(1 - group["lr"] * group.get("decoupled", 0.0))
        self.rule.step()
        self.rule.zero_grad()
        return math.hypot(*norms)


class Reference:
    def __init__(self, config: dict, exported: Path):
        self.config, self.training, data = config, config["training"], config["data"]
        assert data.get("shuffle", True) is False, "the reference reads data in order: data.shuffle must be false"
        dropouts = [config["model"].get(f"{which}_dropout", 0) for which in ("attention", "hidden")]
        assert not any(dropouts), "the reference drops nothing but layers"
        self.model = ARCHITECTURES[config["model"].get("architecture", "llama")](exported, config.get("exits", []))
        for weight in self.model.weights.values():  # another fp32 training would be as far from the truth as the one that is checked
            weight.data = weight.data.double()
        self.frozen = self.training.get("freeze") == "backbone"
        self.optimizer = Optimizer(config["optimizer"], self.model, self.frozen)
        self.document_mask = data.get("document_mask", False)
        self.train_samples = Samples(data["train"], self.training["sequence_length"], data.get("loss_mask"))
        self.validation = Samples(data["validation"], self.training["sequence_length"]) if data.get("validation") else None

    def _weights(self, t: int) -> list[float]:
        """Of every exit's loss and of the final one."""
        if recipe := self.config.get("layerskip"):
            return layer_skip.weights(recipe, [e["layer"] for e in self.model.exits], self.model.layers, t - 1, self.training["steps"])
        scale = exit_scale(self.config.get("exit_loss", {}), t)
        return [float(e["loss_weight"]) * scale for e in self.model.exits] + [0.0 if self.frozen else 1.0]

    def _skipped(self, samples: range, t: int):
        """[layers, samples]: which layers training passes over; None where it passes over none."""
        if not (recipe := self.config.get("layerskip")):
            return None
        rates = [layer_skip.rate(recipe, i, self.model.layers, t - 1, self.training["steps"]) for i in range(self.model.layers)]
        seed = self.training.get("seed", 1234)
        return torch.tensor([layer_skip.skips(seed, self.model.layer_name(i), p, samples) for i, p in enumerate(rates)])

    def _losses(self, samples: Samples, first: int, end: int, t: int, skipped=None):
        """The weighted total and a line of plain losses, over global samples [first, end)."""
        tokens, counted = map(torch.from_numpy, samples.batch(first, end))
        pairs = self.model.losses(tokens, counted, self.document_mask, skipped)
        total = sum(w * trained for w, (_, trained) in zip(self._weights(t), pairs, strict=True))
        plain = [loss.item() for loss, _ in pairs]
        exits = {str(e["layer"]): loss for e, loss in zip(self.model.exits, plain)}
        compared = {}
        if any(e["target"] != "labels" for e in self.model.exits):
            likeness = list(zip(*self.model.likeness(tokens, counted, self.document_mask), strict=True))
            compared = {name: {str(e["layer"]): value for e, value in zip(self.model.exits, values, strict=True)}
                        for name, values in zip(("exit_acceptances", "exit_agreements"), likeness, strict=True)}
        return total, {"step": t, "loss": total.item(), "final_loss": None if self.frozen else plain[-1], "exit_losses": exits} | compared

    def step(self, t: int) -> dict:
        batch, steps = self.training["global_batch_size"], self.training["steps"]
        samples = range((t - 1) * batch, t * batch)
        total, line = self._losses(self.train_samples, samples.start, samples.stop, t, self._skipped(samples, t))
        total.backward()
        lr = learning_rate(self.config["optimizer"], t, steps)
        return line | {"lr": lr, "grad_norm": self.optimizer.step(lr)}

    @torch.no_grad()
    def validate(self, t: int) -> dict:
        samples = min(self.training.get("validation_samples", 64), len(self.validation))
        return self._losses(self.validation, 0, samples, max(t, 1))[1] | {"step": t, "split": "validation"}

    def run(self):
        last = min(self.training["steps"], self.training.get("stop_at", self.training["steps"]))
        for t in range(1, last + 1):
            yield self.step(t)
        if self.validation:
            yield self.validate(last)


if __name__ == "__main__":
    job, export = sys.argv[1:]
    for printed in Reference(yaml.safe_load(Path(job).read_text()), Path(export)).run():
        print(json.dumps(printed))
