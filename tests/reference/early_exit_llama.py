"""A Llama with early exits: RMS norms, rotary embedding, grouped queries, SwiGLU."""

import torch
import torch.nn.functional as F
from early_exit import EarlyExitModel


def rotate(x, angles):
    """Rotary embedding in Hugging Face's layout: element i turns with element i + d/2. x [b, heads, s, d], angles [b, 1, s, d/2]."""
    a, b = x.chunk(2, -1)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def stretched(frequencies, rope):
    """Llama 3's frequencies: long wavelengths are made `factor` times as long, short ones stay, between them it goes smoothly."""
    positions, low, high = (rope[key] for key in ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor"))
    smooth = ((positions * frequencies / (2 * torch.pi) - low) / (high - low)).clamp(0, 1)
    return (1 - smooth) * frequencies / rope["factor"] + smooth * frequencies


class EarlyExitLlama(EarlyExitModel):
    embedding, layer_list, final_norm, second_norm = "model.embed_tokens", "model.layers", "model.norm", "post_attention_layernorm"

    def __init__(self, exported, exits):
        super().__init__(exported, exits)
        self.layers = self.config["num_hidden_layers"]
        self.heads, self.groups = self.config["num_attention_heads"], self.config["num_key_value_heads"]
        self.head_size = self.config["head_dim"]

    def _linear(self, x, name):
        return x @ self.weights[f"{name}.weight"].T

    def embed(self, tokens, where):
        return self.weights[f"{self.embedding}.weight"][tokens]

    def norm(self, x, name, detach=False):
        gain = self.weights[f"{name}.weight"]
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.config["rms_norm_eps"]) * (gain.detach() if detach else gain)

    def mlp(self, x, name):
        return self._linear(F.silu(self._linear(x, f"{name}.gate_proj")) * self._linear(x, f"{name}.up_proj"), f"{name}.down_proj")

    def after_attention(self, x, name, where):
        normed, attention = self.norm(x, f"{name}.input_layernorm"), f"{name}.self_attn"

        def heads(which, count):  # [b, count, s, d]
            return self._linear(normed, f"{attention}.{which}_proj").unflatten(2, (count, self.head_size)).transpose(1, 2)

        q, k = rotate(heads("q", self.heads), where["angles"]), rotate(heads("k", self.groups), where["angles"])
        k, v = (t.repeat_interleave(self.heads // self.groups, 1) for t in (k, heads("v", self.groups)))
        return x + self._linear(self.attend(q, k, v, where), f"{attention}.o_proj")

    def where(self, tokens, document_mask):
        """Rotation angles [b, 1, s, d/2] beside the rest."""
        where = super().where(tokens, document_mask)
        frequencies = 1.0 / self.config["rope_theta"] ** (torch.arange(0, self.head_size, 2, dtype=torch.float64) / self.head_size)
        rope = self.config.get("rope_parameters") or {}
        if rope.get("rope_type") == "llama3":
            frequencies = stretched(frequencies, rope)
        return where | {"angles": (where["positions"][..., None].double() * frequencies)[:, None]}
