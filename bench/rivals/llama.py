"""The early-exit Llama as one would write it in PyTorch for speed. Modules bear the names of the exported tensors."""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import nn


class Norm(nn.Module):
    def __init__(self, m: dict):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(m["hidden_size"])), m["rms_norm_eps"]

    def forward(self, x):
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


def linear(inputs: int, outputs: int) -> nn.Linear:
    return nn.utils.skip_init(nn.Linear, inputs, outputs, bias=False)


def rotate(x, cos, sin):
    """x [b, heads, s, d], cos and sin [s, d / 2]"""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class Attention(nn.Module):
    def __init__(self, m: dict):
        super().__init__()
        hidden = m["hidden_size"]
        self.heads = m["num_attention_heads"]
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (linear(hidden, hidden) for _ in range(4))

    def forward(self, x, cos, sin):
        q, k, v = (p(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        cos, sin = cos.to(q.dtype), sin.to(q.dtype)
        o = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=True)
        return self.o_proj(o.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, m: dict):
        super().__init__()
        self.gate_proj, self.up_proj = (linear(m["hidden_size"], m["intermediate_size"]) for _ in range(2))
        self.down_proj = linear(m["intermediate_size"], m["hidden_size"])

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, m: dict):
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = Norm(m), Norm(m)
        self.self_attn, self.mlp = Attention(m), Mlp(m)

    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Exit(nn.Module):
    def __init__(self, m: dict):
        super().__init__()
        self.norm, self.head = Norm(m), linear(m["hidden_size"], m["vocab_size"])

    def forward(self, x):
        return self.head(self.norm(x))


class Llama(nn.Module):
    """Layers [begin, end), with the embedding before the first of all and the heads of exits and end.

    tokens [b, s], or [b, s, hidden] of the stage before -> logits of exits and end, or [b, s, hidden] for the stage behind."""

    def __init__(self, m: dict, exits: list[dict], sequence: int, begin: int = 0, end: int | None = None):
        super().__init__()
        end = m["num_hidden_layers"] if end is None else end
        self.is_first, self.is_last = begin == 0, end == m["num_hidden_layers"]
        self.model = nn.Module()
        if self.is_first:
            self.model.embed_tokens = nn.utils.skip_init(nn.Embedding, m["vocab_size"], m["hidden_size"])
        self.model.layers = nn.ModuleDict({str(i): Layer(m) for i in range(begin, end)})
        if self.is_last:
            self.model.norm, self.lm_head = Norm(m), linear(m["hidden_size"], m["vocab_size"])
        self.exits = nn.ModuleDict({str(e["layer"]): Exit(m) for e in exits})
        d = m["hidden_size"] // m["num_attention_heads"]
        frequencies = m["rope_theta"] ** -(torch.arange(0, d, 2, dtype=torch.float64) / d)
        angles = torch.outer(torch.arange(sequence, dtype=torch.float64), frequencies)
        self.register_buffer("cos", angles.cos().float(), persistent=False)
        self.register_buffer("sin", angles.sin().float(), persistent=False)

    def forward(self, x):
        logits = []
        if self.is_first:
            x = self.model.embed_tokens(x)
        for name, layer in self.model.layers.items():
            x = layer(x, self.cos, self.sin)
            after = str(int(name) + 1)
            if after in self.exits:
                logits.append(self.exits[after](x))
        return (*logits, self.lm_head(self.model.norm(x))) if self.is_last else x

    def load(self, exported: Path) -> None:
        """Copies the exported values over the parameters, one tensor at a time."""
        missing = dict(self.named_parameters())
        for file in sorted(exported.glob("*.safetensors")):
            with safe_open(file, "pt") as tensors, torch.no_grad():
                for name in missing.keys() & set(tensors.keys()):
                    missing.pop(name).copy_(tensors.get_tensor(name))
        assert not missing, f"{exported} lacks {sorted(missing)}"


def cross_entropy(logits, targets):
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())  # float: a stage's loss is outside autocast


class Losses(nn.Module):
    """tokens, targets [b, s] -> the loss to train on; every exit's and the end's mean cross-entropy."""

    def __init__(self, llama: Llama, weights: list[float]):
        super().__init__()
        self.llama, self.weights = llama, weights

    def forward(self, tokens, targets):
        each = [cross_entropy(logits, targets) for logits in self.llama(tokens)]
        return sum(w * loss for w, loss in zip(self.weights, each)), torch.stack(each).detach()
