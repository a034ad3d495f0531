"""A Llama with early exits in plain PyTorch, from an export directory. Gradients come from autograd."""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file


def rms_norm(x, weight, eps):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def rotate(x, angles):
    """Rotary embedding in Hugging Face's layout: element i turns with element i + d/2. x [b, heads, s, d], angles [b, 1, s, d/2]."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], -1)


class EarlyExitLlama:
    """Parameters by their exported names (`weights`), each logical tensor once; losses() gives every exit's."""

    def __init__(self, exported: Path, exits: list[dict]):
        self.config = json.loads((exported / "config.json").read_text())
        described = json.loads((exported / "exits.json").read_text())["exits"]
        keys = ("layer", "head", "output", "norm")
        defaults = {"head": "norm", "output": "own", "norm": "own", "token_weight": "none", "detach": False, "lr_scale": 1.0}
        self.exits = [defaults | e for e in sorted(exits, key=lambda e: e["layer"])]
        for ours, theirs in zip(self.exits, described, strict=True):
            assert ours["head"] == "bare" or all(ours[k] == theirs[k] for k in keys), (ours, theirs)
        self.weights = load_file(exported / "model.safetensors")
        if self.exits:
            self.weights |= load_file(exported / "exits.safetensors")
        for weight in self.weights.values():
            weight.requires_grad_()
        self.final_output = "model.embed_tokens.weight" if self.config["tie_word_embeddings"] else "lm_head.weight"

    def _linear(self, x, name):
        return x @ self.weights[f"{name}.weight"].T

    def _norm(self, x, name):
        return rms_norm(x, self.weights[f"{name}.weight"], self.config["rms_norm_eps"])

    def _mlp(self, x, name):
        return self._linear(F.silu(self._linear(x, f"{name}.gate_proj")) * self._linear(x, f"{name}.up_proj"), f"{name}.down_proj")

    def _attention(self, x, name, where):
        b, s, hidden = x.shape
        queries, groups = self.config["num_attention_heads"], self.config["num_key_value_heads"]
        d = hidden // queries

        def heads(which, count):  # [b, count, s, d]
            return self._linear(x, f"{name}.{which}_proj").view(b, s, count, d).transpose(1, 2)

        q, k = rotate(heads("q", queries), where["angles"]), rotate(heads("k", groups), where["angles"])
        k, v = (t.repeat_interleave(queries // groups, 1) for t in (k, heads("v", groups)))
        scores = (q @ k.transpose(2, 3) / d**0.5).masked_fill(~where["allowed"], float("-inf"))
        return self._linear((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, s, hidden), f"{name}.o_proj")

    def _after_attention(self, x, name, where):
        return x + self._attention(self._norm(x, f"{name}.input_layernorm"), f"{name}.self_attn", where)

    def _layer(self, x, name, where):
        r = self._after_attention(x, name, where)
        return r, r + self._mlp(self._norm(r, f"{name}.post_attention_layernorm"), f"{name}.mlp")

    def _head(self, spec, r, h, where):
        """Logits of the exit behind a layer with post-attention residual r and output h."""
        name, layer = f"exits.{spec['layer']}", f"model.layers.{spec['layer'] - 1}"
        if spec["detach"]:
            r, h = r.detach(), h.detach()
        if spec["head"] == "mlp":
            gain = self.weights[f"{layer}.post_attention_layernorm.weight"]  # the backbone's
            h = r + self._mlp(rms_norm(r, gain.detach() if spec["detach"] else gain, self.config["rms_norm_eps"]), f"{name}.mlp")
        elif spec["head"] == "block":
            h = self._layer(h, f"{name}.block", where)[1]
        elif spec["head"] == "attention":
            h = self._after_attention(h, f"{name}.block", where)
        if spec["head"] != "bare":
            h = self._norm(h, f"{name}.norm" if spec["norm"] == "own" else "model.norm")
        return h @ self.weights[f"{name}.head.weight" if spec["output"] == "own" else self.final_output].T

    def _where(self, tokens, document_mask):
        """Rotation angles [b, 1, s, d/2] and which keys a query may see [b, 1, s, s]."""
        b, s = tokens.shape
        d = self.config["hidden_size"] // self.config["num_attention_heads"]
        frequencies = 1.0 / self.config["rope_theta"] ** (torch.arange(0, d, 2, dtype=torch.float64) / d)
        positions = torch.arange(s).expand(b, s)
        allowed = (positions[:, :, None] >= positions[:, None, :]).clone()
        if document_mask:
            ends = tokens == self.config["eos_token_id"]
            document = ends.cumsum(1) - ends.long()  # an end token belongs to the document it ends
            allowed &= document[:, :, None] == document[:, None, :]
            positions = positions - allowed.long().argmax(2)  # the first key that it may see
        angles = (positions[..., None].double() * frequencies).float()
        return {"angles": angles[:, None], "allowed": allowed[:, None]}

    def logits(self, tokens, document_mask=False):
        """tokens [b, s] -> the logits [b, s, vocabulary] of each exit, then the final head's."""
        where, of_exits = self._where(tokens, document_mask), {e["layer"]: e for e in self.exits}
        h, logits = self.weights["model.embed_tokens.weight"][tokens], []
        for i in range(self.config["num_hidden_layers"]):
            r, h = self._layer(h, f"model.layers.{i}", where)
            if i + 1 in of_exits:
                logits.append(self._head(of_exits[i + 1], r, h, where))
        return logits + [self._norm(h, "model.norm") @ self.weights[self.final_output].T]

    def losses(self, tokens, counted, document_mask=False):
        """tokens [b, s + 1], counted [b, s] -> a pair for each exit and the final head: the mean loss over counted tokens, and
        the one to train on, whose tokens may be weighted by the exit's confidence."""
        n, result = counted.sum().clamp(min=1), []
        specs = self.exits + [{"token_weight": "none"}]
        for spec, logits in zip(specs, self.logits(tokens[:, :-1], document_mask), strict=True):
            each = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")[counted.flatten()]
            confidence = logits.detach().softmax(-1).amax(-1).flatten()[counted.flatten()]
            result.append((each.sum() / n, (confidence * each if spec["token_weight"] == "confidence" else each).sum() / n))
        return result
