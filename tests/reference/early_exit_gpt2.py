"""A GPT-2 with early exits: layer norms, learned positions, biases, tanh GELU. Its files hold matrices [in, out], and q, k, v as
one."""

import torch.nn.functional as F
from early_exit import EarlyExitModel


class EarlyExitGpt2(EarlyExitModel):
    embedding, layer_list, final_norm, second_norm = "transformer.wte", "transformer.h", "transformer.ln_f", "ln_2"

    def __init__(self, exported, exits):
        super().__init__(exported, exits)
        self.layers, self.heads = self.config["n_layer"], self.config["n_head"]

    def _linear(self, x, name):
        return x @ self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def embed(self, tokens, where):
        return self.weights[f"{self.embedding}.weight"][tokens] + self.weights["transformer.wpe.weight"][where["positions"]]

    def norm(self, x, name, detach=False):
        gain, bias = (self.weights[f"{name}.{part}"] for part in ("weight", "bias"))
        if detach:
            gain, bias = gain.detach(), bias.detach()
        centred = x - x.mean(-1, keepdim=True)
        return centred * (centred.pow(2).mean(-1, keepdim=True) + self.config["layer_norm_epsilon"]).rsqrt() * gain + bias

    def mlp(self, x, name):
        return self._linear(F.gelu(self._linear(x, f"{name}.c_fc"), approximate="tanh"), f"{name}.c_proj")

    def after_attention(self, x, name, where):
        qkv = self._linear(self.norm(x, f"{name}.ln_1"), f"{name}.attn.c_attn").chunk(3, -1)
        q, k, v = (t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in qkv)
        return x + self._linear(self.attend(q, k, v, where), f"{name}.attn.c_proj")
