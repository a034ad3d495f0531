"""An export read by transformers' own classes: the backbone as it comes, and the exits' heads of its parts."""

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.models.gpt2.modeling_gpt2 import GPT2MLP, GPT2Block
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaMLP, LlamaRMSNorm


def first(output):
    return output[0] if isinstance(output, tuple) else output


class Stock:
    """transformers' model, what each of its layers made of tokens [b, s], and the logits of the final head."""

    second_norm: str  # of a layer
    mlp_output: list[str]  # parameters of a layer without which its MLP adds nothing

    def __init__(self, model, tokens):
        self.model, self.config = model, model.config
        self.residuals, self.outputs = [], []  # of each layer [b, s, hidden]: after attention; at its end
        for layer in self.layers:
            getattr(layer, self.second_norm).register_forward_pre_hook(lambda _, inputs: self.residuals.append(inputs[0]))
            layer.register_forward_hook(lambda *call: self.outputs.append(first(call[2])))
        with torch.no_grad():
            self.logits = self.model(tokens).logits

    def extra_layer(self, weights, prefix, h):
        """A layer of transformers' own; without weights for its MLP, one whose MLP adds nothing."""
        layer = self.make_layer().eval()
        kept = {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}
        if not any(name.startswith("mlp.") for name in kept):
            kept |= {name: torch.zeros_like(layer.get_parameter(name)) for name in self.mlp_output}
        loaded = layer.load_state_dict(kept, strict=False)
        absent = [name for name in loaded.missing_keys if not name.startswith(("mlp.", f"{self.second_norm}."))]
        assert not absent and not loaded.unexpected_keys, (absent, loaded.unexpected_keys)
        return first(self.run_layer(layer, h))

    def exit_logits(self, spec, weights):
        prefix, h, i = f"exits.{spec['layer']}.", self.outputs[spec["layer"] - 1], spec["layer"] - 1
        if spec["head"] == "mlp":
            r, mlp = self.residuals[i], self.make_mlp().eval()
            mlp.load_state_dict({name: weights[f"{prefix}mlp.{name}"] for name in mlp.state_dict()})
            h = r + mlp(getattr(self.layers[i], self.second_norm)(r))
        elif spec["head"] in ("block", "attention"):
            h = self.extra_layer(weights, f"{prefix}block.", h)
        if spec["head"] != "bare":
            norm = self.final_norm
            if spec["norm"] == "own":
                norm = self.make_norm()
                norm.load_state_dict({name: weights[f"{prefix}norm.{name}"] for name in norm.state_dict()})
            h = norm(h)
        return h @ (weights[f"{prefix}head.weight"] if spec["output"] == "own" else self.model.lm_head.weight).T


class StockLlama(Stock):
    second_norm, mlp_output = "post_attention_layernorm", ["mlp.down_proj.weight"]

    layers = property(lambda self: self.model.model.layers)
    final_norm = property(lambda self: self.model.model.norm)

    def make_layer(self):
        return LlamaDecoderLayer(self.config, layer_idx=0)

    def run_layer(self, layer, h):
        positions = self.model.model.rotary_emb(h, torch.arange(h.shape[1])[None])
        return layer(h, attention_mask=None, position_embeddings=positions)

    def make_mlp(self):
        return LlamaMLP(self.config)

    def make_norm(self):
        return LlamaRMSNorm(self.config.hidden_size, eps=self.config.rms_norm_eps)


class StockGpt2(Stock):
    second_norm, mlp_output = "ln_2", ["mlp.c_proj.weight", "mlp.c_proj.bias"]

    layers = property(lambda self: self.model.transformer.h)
    final_norm = property(lambda self: self.model.transformer.ln_f)

    def make_layer(self):
        return GPT2Block(self.config, layer_idx=0)

    def run_layer(self, layer, h):
        return layer(h)

    def make_mlp(self):
        return GPT2MLP(self.config.n_inner, self.config)

    def make_norm(self):
        return torch.nn.LayerNorm(self.config.n_embd, eps=self.config.layer_norm_epsilon)


def load(exported):
    return AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32, attn_implementation="sdpa")


def stock(exported, tokens):
    model = load(exported)
    return {"llama": StockLlama, "gpt2": StockGpt2}[model.config.model_type](model, tokens)


def exit_weights(exported):
    return load_file(exported / "exits.safetensors")
