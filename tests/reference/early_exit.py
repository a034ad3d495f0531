"""A transformer with early exits in plain PyTorch, from an export directory: what all architectures share. Gradients come from
autograd."""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file


class EarlyExitModel:
    """Parameters by their exported names (`weights`), each tensor of the files once; losses() gives every exit's.

    An architecture names its modules and has, for x [b, s, hidden] and a module's name:
        embed(tokens, where), norm(x, name, detach=False), mlp(x, name), after_attention(x, layer's name, where)
    """

    embedding: str
    layer_list: str
    final_norm: str
    second_norm: str  # of a layer
    layers: int

    def __init__(self, exported: Path, exits: list[dict]):
        self.config = json.loads((exported / "config.json").read_text())
        described = json.loads((exported / "exits.json").read_text())["exits"]
        keys = ("layer", "head", "output", "norm")
        defaults = {"head": "norm", "output": "own", "norm": "own", "token_weight": "none", "target": "labels", "detach": False, "lr_scale": 1.0}
        self.exits = [defaults | e for e in sorted(exits, key=lambda e: e["layer"])]
        for ours, theirs in zip(self.exits, described, strict=True):
            assert ours["head"] == "bare" or all(ours[k] == theirs[k] for k in keys), (ours, theirs)
        self.weights = load_file(exported / "model.safetensors")
        if self.exits:
            self.weights |= load_file(exported / "exits.safetensors")
        for weight in self.weights.values():
            weight.requires_grad_()
        self.final_output = f"{self.embedding if self.config['tie_word_embeddings'] else 'lm_head'}.weight"

    def layer_name(self, i):
        return f"{self.layer_list}.{i}"

    def _layer(self, x, name, where):
        r = self.after_attention(x, name, where)
        return r, r + self.mlp(self.norm(r, f"{name}.{self.second_norm}"), f"{name}.mlp")

    def _head(self, spec, r, h, where):
        """Logits of the exit behind a layer with post-attention residual r and output h."""
        name = f"exits.{spec['layer']}"
        if spec["detach"]:
            r, h = r.detach(), h.detach()
        if spec["head"] == "mlp":  # behind the backbone's norm
            norm = f"{self.layer_name(spec['layer'] - 1)}.{self.second_norm}"
            h = r + self.mlp(self.norm(r, norm, detach=spec["detach"]), f"{name}.mlp")
        elif spec["head"] == "block":
            h = self._layer(h, f"{name}.block", where)[1]
        elif spec["head"] == "attention":
            h = self.after_attention(h, f"{name}.block", where)
        if spec["head"] != "bare":
            h = self.norm(h, f"{name}.norm" if spec["norm"] == "own" else self.final_norm)
        return h @ self.weights[f"{name}.head.weight" if spec["output"] == "own" else self.final_output].T

    def where(self, tokens, document_mask):
        """Positions [b, s] and which keys a query may see [b, 1, s, s]."""
        b, s = tokens.shape
        positions = torch.arange(s).expand(b, s)
        allowed = (positions[:, :, None] >= positions[:, None, :]).clone()
        if document_mask:
            ends = tokens == self.config["eos_token_id"]
            document = ends.cumsum(1) - ends.long()  # an end token belongs to the document it ends
            allowed &= document[:, :, None] == document[:, None, :]
            positions = positions - allowed.long().argmax(2)  # the first key that it may see
        return {"positions": positions, "allowed": allowed[:, None]}

    def attend(self, q, k, v, where):
        """q, k, v [b, heads, s, d] -> [b, s, heads * d]"""
        b, heads, s, d = q.shape
        scores = (q @ k.transpose(2, 3) / d**0.5).masked_fill(~where["allowed"], float("-inf"))
        return (scores.softmax(-1) @ v).transpose(1, 2).reshape(b, s, heads * d)

    def logits(self, tokens, document_mask=False, skipped=None):
        """tokens [b, s] -> the logits [b, s, vocabulary] of each exit, then the final head's. skipped [layers, b]: samples that a
        layer, both its halves together, passes on as they are."""
        where, of_exits = self.where(tokens, document_mask), {e["layer"]: e for e in self.exits}
        h, logits = self.embed(tokens, where), []
        for i in range(self.layers):
            r, y = self._layer(h, self.layer_name(i), where)
            if skipped is not None:
                r, y = (torch.where(skipped[i][:, None, None], h, t) for t in (r, y))
            h = y
            if i + 1 in of_exits:
                logits.append(self._head(of_exits[i + 1], r, h, where))
        return logits + [self.norm(h, self.final_norm) @ self.weights[self.final_output].T]

    def losses(self, tokens, counted, document_mask=False, skipped=None):
        """tokens [b, s + 1], counted [b, s] -> a pair for each exit and the final head: the mean loss over counted tokens, and
        the one to train on: of labels or of what the final head says, with tokens that may be weighted by the exit's confidence."""
        n, which, result = counted.sum().clamp(min=1), counted.flatten(), []
        specs = self.exits + [{"token_weight": "none", "target": "labels"}]
        of_all = [logits.flatten(0, 1)[which] for logits in self.logits(tokens[:, :-1], document_mask, skipped)]
        labels, final = tokens[:, 1:].flatten()[which], of_all[-1].detach()
        targets = {"labels": labels, "argmax": final.argmax(-1), "distribution": final.softmax(-1)}
        for spec, logits in zip(specs, of_all, strict=True):
            trained = F.cross_entropy(logits, targets[spec["target"]], reduction="none")
            confidence = logits.detach().softmax(-1).amax(-1)
            weighted = confidence * trained if spec["token_weight"] == "confidence" else trained
            result.append((F.cross_entropy(logits, labels, reduction="sum") / n, weighted.sum() / n))
        return result

    @torch.no_grad()
    def likeness(self, tokens, counted, document_mask=False):
        """tokens [b, s + 1], counted [b, s] -> of each exit, the expected acceptance and the agreement of its argmax with the final head's."""
        of_all = [logits.flatten(0, 1)[counted.flatten()] for logits in self.logits(tokens[:, :-1], document_mask)]
        final = of_all.pop()
        return [(torch.minimum(logits.softmax(-1), final.softmax(-1)).sum(-1).mean().item(),
                 (logits.argmax(-1) == final.argmax(-1)).double().mean().item()) for logits in of_all]
