"""Training steps in PyTorch: of one process, of DistributedDataParallel and of torch.distributed.pipelining.

trainers.make(job) picks one. restart() goes back to the initial weights; step(i) trains on the samples of step i, from 0.
"""

import contextlib
import os
from pathlib import Path

import torch
import torch.distributed as dist
from llama import Llama, Losses, cross_entropy
from torch.distributed.pipelining import PipelineStage, Schedule1F1B
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_, clip_grads_with_norm_, get_total_norm
from workload import Samples


def make_optimizer(module: torch.nn.Module, o: dict) -> torch.optim.Optimizer:
    parameters = list(module.parameters())
    groups = [{"params": [p for p in parameters if p.dim() >= 2], "weight_decay": o["weight_decay"]},
              {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=o["lr"], betas=tuple(o["betas"]), eps=o["eps"], fused=True)


class Trainer:
    """What all have in common: data, initial weights, precision, the update."""

    def __init__(self, job: dict, llama: Llama, rank: int = 0):
        self.job, self.llama = job, llama
        layout = job["layout"]
        self.micro_batch, self.clip = layout["micro_batch"], job["optimizer"]["clip_grad_norm"]
        self.micro_batches = job["batch"] // (self.micro_batch * layout["data"])
        self.offset = rank % layout["data"] * self.micro_batch * self.micro_batches if layout["data"] > 1 else 0
        self.samples = Samples(job["corpus"], job["sequence"])
        self.optimizer = make_optimizer(llama, job["optimizer"])

    def restart(self) -> None:
        self.llama.load(Path(self.job["initial"]))
        for state in self.optimizer.state.values():
            for value in state.values():
                value.zero_()

    def autocast(self):
        return torch.autocast("cpu", torch.bfloat16) if self.job["precision"] == "bf16" else contextlib.nullcontext()

    def data(self, step: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """tokens and targets of each microbatch of this rank"""
        first = step * self.job["batch"] + self.offset
        tokens = torch.from_numpy(self.samples.batch(first, first + self.micro_batch * self.micro_batches)[0])
        return [(t[:, :-1].contiguous(), t[:, 1:].contiguous()) for t in tokens.split(self.micro_batch)]

    def update(self, norm: torch.Tensor) -> float:
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm.item()

    def line(self, losses: torch.Tensor, norm: float) -> dict:
        """losses: of every exit and the end"""
        *exits, final = losses.tolist()
        layers = [str(e["layer"]) for e in self.job["exits"]]
        return {"final_loss": final, "exit_losses": dict(zip(layers, exits, strict=True)), "grad_norm": norm}

    def close(self) -> None:
        pass


class Single(Trainer):
    def __init__(self, job: dict, rank: int = 0):
        super().__init__(job, Llama(job["model"], job["exits"], job["sequence"]), rank)
        weights = [e["loss_weight"] for e in job["exits"]] + [1.0]
        self.losses = self.wrapped(Losses(self.llama, weights))
        if job["compiled"]:
            self.losses = torch.compile(self.losses)

    def wrapped(self, losses: Losses) -> torch.nn.Module:
        return losses

    def unreduced(self, last: bool):
        """Within it, gradients are only accumulated, unless it is the last microbatch."""
        return contextlib.nullcontext()

    def mean(self, losses: torch.Tensor) -> torch.Tensor:
        return losses

    def step(self, step: int) -> dict:
        sums = 0
        for i, (tokens, targets) in enumerate(self.data(step)):
            with self.unreduced(last=i == self.micro_batches - 1):
                with self.autocast():
                    total, each = self.losses(tokens, targets)
                (total / self.micro_batches).backward()
            sums = sums + each
        norm = self.update(clip_grad_norm_(self.llama.parameters(), self.clip))
        return self.line(self.mean(sums / self.micro_batches), norm)


def join() -> int:
    """Joins the other ranks; this one's number."""
    dist.init_process_group("gloo")
    return dist.get_rank()


class DataParallel(Single):
    def __init__(self, job: dict):
        super().__init__(job, join())

    def wrapped(self, losses: Losses) -> torch.nn.Module:
        return DistributedDataParallel(losses, gradient_as_bucket_view=True)

    def unreduced(self, last: bool):
        return contextlib.nullcontext() if last else self.losses.no_sync()

    def mean(self, losses: torch.Tensor) -> torch.Tensor:
        dist.all_reduce(losses)
        return losses / dist.get_world_size()

    def close(self) -> None:
        dist.destroy_process_group()


class Stage(torch.nn.Module):
    """One rank's layers under autocast; without exits, the last stage's only output is the final logits."""

    def __init__(self, llama: Llama, autocast):
        super().__init__()
        self.llama, self.autocast = llama, autocast

    def forward(self, x):
        with self.autocast():
            y = self.llama(x)
        return y[-1] if self.llama.is_last else y


class Pipeline(Trainer):
    def __init__(self, job: dict):
        assert not job["exits"], "a chain of stages has one loss, at its end"
        rank, stages = join(), job["layout"]["pipeline"]
        layers = job["model"]["num_hidden_layers"] // stages
        super().__init__(job, Llama(job["model"], [], job["sequence"], rank * layers, (rank + 1) * layers))
        stage, loss = Stage(self.llama, self.autocast), cross_entropy
        if job["compiled"]:
            stage.compile()
            loss = torch.compile(loss)
        self.stage = PipelineStage(stage, rank, stages, torch.device("cpu"))
        self.schedule = Schedule1F1B(self.stage, self.micro_batches, loss_fn=loss)

    def step(self, step: int) -> dict:
        data, losses = self.data(step), []
        inputs = [(tokens,) if self.stage.is_first else () for tokens, _ in data]
        targets = [targets for _, targets in data] if self.stage.is_last else None
        self.schedule.step(arg_mbs=inputs, target_mbs=targets, losses=losses, return_outputs=False)
        norm = self.update(self.clip_over_stages())
        final = torch.stack(losses).detach().mean() if self.stage.is_last else torch.zeros(())
        dist.broadcast(final, dist.get_world_size() - 1)
        return self.line(final[None], norm)

    def clip_over_stages(self) -> torch.Tensor:
        square = get_total_norm([p.grad for p in self.llama.parameters()]) ** 2
        dist.all_reduce(square)
        clip_grads_with_norm_(self.llama.parameters(), self.clip, square.sqrt())
        return square.sqrt()

    def close(self) -> None:
        dist.destroy_process_group()


def make(job: dict) -> Trainer:
    layout = job["layout"]
    if layout["pipeline"] > 1:
        return Pipeline(job)
    return DataParallel(job) if int(os.environ.get("WORLD_SIZE", "1")) > 1 else Single(job)
