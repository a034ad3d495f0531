"""What the program exports means the same to transformers: the backbone, the exits' heads, the tokenizer."""

import json

import pytest
import torch
import torch.nn.functional as F
from corpus import Samples, read_tokens
from job import Job, run, validation_lines
from jobs import SIZES
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaMLP, LlamaRMSNorm

TOLERANCE = 1e-4  # relative, fp32
CONFIGURATIONS = ["every_head", "tied", "scaled", "nesterov"]  # none masks documents, which a stock model does not do


def validation_tokens(config):  # [samples, s + 1]
    samples = Samples(config["data"]["validation"], config["training"]["sequence_length"])
    count = min(config["training"]["validation_samples"], len(samples))
    return torch.from_numpy(samples.batch(0, count)[0])


class Backbone:
    """transformers' model, and what each of its layers made of the inputs."""

    def __init__(self, exported, tokens):
        self.model = AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32, attn_implementation="sdpa")
        self.residuals, self.outputs = [], []  # of each layer [b, s, hidden]: after attention; at its end
        for layer in self.model.model.layers:
            layer.post_attention_layernorm.register_forward_pre_hook(lambda _, inputs: self.residuals.append(inputs[0]))
            layer.register_forward_hook(lambda *call: self.outputs.append(self.first(call[2])))
        with torch.no_grad():
            self.logits = self.model(tokens[:, :-1]).logits

    @staticmethod
    def first(output):
        return output[0] if isinstance(output, tuple) else output

    def extra_layer(self, weights, prefix, h):
        """A layer of transformers' own; without weights for its MLP, one whose MLP adds nothing."""
        layer = LlamaDecoderLayer(self.model.config, layer_idx=0)
        kept = {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}
        if not any(name.startswith("mlp.") for name in kept):
            kept["mlp.down_proj.weight"] = torch.zeros_like(layer.mlp.down_proj.weight)
        loaded = layer.load_state_dict(kept, strict=False)
        absent = [name for name in loaded.missing_keys if "mlp" not in name and "post_attention" not in name]
        assert not absent and not loaded.unexpected_keys, (absent, loaded.unexpected_keys)
        positions = self.model.model.rotary_emb(h, torch.arange(h.shape[1])[None])
        return self.first(layer(h, attention_mask=None, position_embeddings=positions))

    def exit_logits(self, spec, weights):
        prefix, h = f"exits.{spec['layer']}.", self.outputs[spec["layer"] - 1]
        if spec["head"] == "mlp":
            r, mlp = self.residuals[spec["layer"] - 1], LlamaMLP(self.model.config)
            mlp.load_state_dict({name: weights[f"{prefix}mlp.{name}"] for name in mlp.state_dict()})
            h = r + mlp(self.model.model.layers[spec["layer"] - 1].post_attention_layernorm(r))
        elif spec["head"] in ("block", "attention"):
            h = self.extra_layer(weights, f"{prefix}block.", h)
        if spec["head"] != "bare":
            norm = self.model.model.norm
            if spec["norm"] == "own":
                norm = LlamaRMSNorm(h.shape[-1], eps=self.model.config.rms_norm_eps)
                norm.load_state_dict({"weight": weights[f"{prefix}norm.weight"]})
            h = norm(h)
        return h @ (weights[f"{prefix}head.weight"] if spec["output"] == "own" else self.model.lm_head.weight).T


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_backbone_loss_equals_transformers(trained, name):
    done = trained(name)
    tokens = validation_tokens(done.config)
    model = AutoModelForCausalLM.from_pretrained(done.exported, dtype=torch.float32)
    with torch.no_grad():
        out = model(input_ids=tokens, labels=tokens)
    assert out.logits.shape == (*tokens.shape, SIZES["vocab_size"])
    tied = model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert tied == done.config["model"].get("tie_word_embeddings", False)
    assert out.loss.item() == pytest.approx(validation_lines(done.lines)[-1]["final_loss"], rel=TOLERANCE)


@pytest.mark.parametrize("name", CONFIGURATIONS)
@torch.no_grad()
def test_exits_on_transformers_hidden_states(trained, name):
    done = trained(name)
    tokens = validation_tokens(done.config)
    backbone, weights = Backbone(done.exported, tokens), load_file(done.exported / "exits.safetensors")
    exits = json.loads((done.exported / "exits.json").read_text())["exits"]
    losses = {str(e["layer"]): F.cross_entropy(backbone.exit_logits(e, weights).flatten(0, 1), tokens[:, 1:].flatten()).item()
              for e in exits}
    assert len(losses) == len(done.config["exits"])
    assert losses == pytest.approx(validation_lines(done.lines)[-1]["exit_losses"], rel=TOLERANCE)


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece"])
def test_exported_tokenizer_makes_the_tokens_that_were_trained_on(tmp_path, corpora, kind):
    text = corpora["first"].parent / "first_text"
    odd = tmp_path / "odd"
    odd.mkdir()
    (odd / "odd.txt").write_text("naïve café: 数字 1234567\n\n\tindented,  two spaces; the early exit\n")
    model = "bytes"
    if kind == "sentencepiece":
        model = tmp_path / "pieces.model"
        run(["tokenizer", "train", "--input", text, "--vocab-size", 300, "--output", model])
    run(["data", "build", "--input", text, odd, "--tokenizer", model, "--output", tmp_path / "docs", "--validation-fraction", 0])
    config = {"model": SIZES | {"vocab_size": 300}, "exits": [],
              "training": {"sequence_length": 64, "micro_batch_size": 1, "global_batch_size": 1, "steps": 0},
              "optimizer": {"lr": 0.001}, "data": {"train": str(tmp_path / "docs_train")}}
    job = Job(tmp_path, config)
    job.train("run")
    tokenizer = AutoTokenizer.from_pretrained(job.exported("run"))
    documents = [path.read_text() for path in [*sorted(text.iterdir()), odd / "odd.txt"]]
    ids = [i for document in documents for i in [*tokenizer.encode(document, add_special_tokens=False), tokenizer.eos_token_id]]
    assert ids == read_tokens(tmp_path / "docs_train").tolist()
    assert tokenizer.decode(tokenizer.encode(documents[-1], add_special_tokens=False)) == documents[-1]
