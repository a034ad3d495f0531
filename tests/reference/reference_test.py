"""The reference itself: its models equal transformers', and what it draws at random is what the published generator gives."""

import json

import layer_skip
import pytest
import torch
from reference import ARCHITECTURES
from safetensors.torch import save_file
from stock import exit_weights, stock
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

TOLERANCE = 1e-4  # of logits of about 1, fp32
EXITS = [{"layer": 1, "head": "mlp", "output": "own", "norm": "shared"}, {"layer": 2, "head": "attention", "output": "own", "norm": "own"},
         {"layer": 3, "head": "block", "output": "shared", "norm": "own"}, {"layer": 4, "head": "norm", "output": "own", "norm": "own"}]
COMMON = {"vocab_size": 61, "bos_token_id": None, "eos_token_id": 7, "initializer_range": 0.2}


def llama(tied):
    return LlamaForCausalLM(LlamaConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4,
                                        num_key_value_heads=2, max_position_embeddings=20, rms_norm_eps=1e-3, rope_theta=500.0,
                                        tie_word_embeddings=tied, **COMMON))


def gpt2(tied):
    return GPT2LMHeadModel(GPT2Config(n_embd=36, n_inner=48, n_layer=4, n_head=4, n_positions=20, layer_norm_epsilon=1e-3,
                                      tie_word_embeddings=tied, **COMMON))


def exits_of(model):
    """Random weights for EXITS, by the exported names, shaped like the model's last layer."""
    layers = model.transformer.h if hasattr(model, "transformer") else model.model.layers
    final_norm = model.transformer.ln_f if hasattr(model, "transformer") else model.model.norm
    second_norm = "ln_2." if hasattr(model, "transformer") else "post_attention_layernorm."
    layer, weights = layers[3].state_dict(), {}
    for spec in EXITS:
        prefix = f"exits.{spec['layer']}"
        if spec["head"] == "mlp":
            weights |= {f"{prefix}.{name}": w for name, w in layer.items() if name.startswith("mlp.")}
        if spec["head"] in ("block", "attention"):
            skipped = ("mlp.", second_norm) if spec["head"] == "attention" else ()
            weights |= {f"{prefix}.block.{name}": w for name, w in layer.items() if not name.startswith(skipped)}
        if spec["norm"] == "own":
            weights |= {f"{prefix}.norm.{name}": w for name, w in final_norm.state_dict().items()}
        if spec["output"] == "own":
            weights[f"{prefix}.head.weight"] = model.lm_head.weight
    return {name: weight + 0.2 * torch.randn_like(weight) for name, weight in weights.items()}


@pytest.fixture(params=[(name, tied) for name in ("llama", "gpt2") for tied in (False, True)], ids=str)
def exported(request, tmp_path):
    """An export as the program writes it, by transformers alone, with random weights everywhere."""
    torch.manual_seed(3)
    name, tied = request.param
    model = {"llama": llama, "gpt2": gpt2}[name](tied)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["rope_theta"] = 500.0  # which we write in the old place too
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "exits.json").write_text(json.dumps({"exits": EXITS}))
    save_file({name: w.detach().contiguous() for name, w in exits_of(model).items()}, tmp_path / "exits.safetensors")
    return name, tmp_path


@torch.no_grad()
def test_every_exit_equals_transformers(exported):
    name, path = exported
    tokens = torch.randint(0, 61, (3, 17))
    theirs, weights = stock(path, tokens), exit_weights(path)
    expected = [theirs.exit_logits(spec, weights) for spec in EXITS] + [theirs.logits]
    ours = ARCHITECTURES[name](path, EXITS).logits(tokens)
    for a, b in zip(ours, expected, strict=True):
        assert b.std() > 0.3
        torch.testing.assert_close(a, b, rtol=TOLERANCE, atol=TOLERANCE)


@torch.no_grad()
def test_skipped_layers_are_not_there(exported):
    """A sample that skips layer 2 gets what a model without that layer gives."""
    name, path = exported
    model, tokens = ARCHITECTURES[name](path, EXITS), torch.randint(0, 61, (2, 17))
    skipped = torch.zeros(4, 2, dtype=torch.bool)
    skipped[1, 0] = True
    got, usual = model.logits(tokens, skipped=skipped), model.logits(tokens)
    for a, b in zip(got, usual, strict=True):
        torch.testing.assert_close(a[1], b[1])
    assert not torch.allclose(got[4][0], usual[4][0], atol=0.1)
    layers = [model.layer_name(i) for i in (0, 2, 3)]
    model.layers, model.exits, model.layer_name = 3, [], layers.__getitem__
    torch.testing.assert_close(got[4][0], model.logits(tokens)[0][0])


def test_documents_restart(exported):
    """Positions and attention start anew behind an end token."""
    name, path = exported
    model, tokens = ARCHITECTURES[name](path, EXITS), torch.randint(8, 61, (1, 16))
    tokens[0, 5] = 7
    together, alone = model.logits(tokens, document_mask=True), model.logits(tokens[:, 6:])
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a[:, 6:], b, rtol=TOLERANCE, atol=TOLERANCE)


def test_generator_gives_the_published_numbers():
    """Known answers that come with the paper's code (Random123, kat_vectors)."""
    ones, pi = [0xFFFFFFFF] * 4, [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344]
    assert layer_skip.philox4x32([0] * 4, [0, 0]) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert layer_skip.philox4x32(ones, ones[:2]) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    assert layer_skip.philox4x32(pi, [0xA4093822, 0x299F31D0]) == [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]
    assert layer_skip.fnv1a("") == 0xCBF29CE484222325
    assert layer_skip.fnv1a("foobar") == 0x85944171F73967E8


def test_layers_are_skipped_at_their_rate():
    p = layer_skip.rate({"p_max": 0.5}, 2, 3, 0, 10)
    assert p == pytest.approx(0.5)
    assert layer_skip.rate({"p_max": 0.5}, 1, 3, 0, 10) == pytest.approx(0.5 * (2**0.5 - 1))
    assert layer_skip.rate({"p_max": 0.5, "time": "exponential"}, 2, 3, 2, 5) == pytest.approx(0.5 * (2**0.5 - 1))
    share = sum(layer_skip.skips(1234, "model.layers.2", p, range(10000))) / 10000
    assert abs(share - p) < 4 * (p * (1 - p) / 10000) ** 0.5


def test_weights_of_layerskip():
    assert layer_skip.weights({"e_scale": 0.2}, [2, 5], 8, 0, 10) == pytest.approx([0.2 / 13.4, 2 / 13.4, 11.2 / 13.4])
    assert layer_skip.weights({"rotation": 4}, [2, 5], 8, 1, 10) == pytest.approx([0.2 / 11.4, 0, 11.2 / 11.4])
    assert layer_skip.weights({"curriculum": "gradual"}, [2, 5], 8, 3, 16) == pytest.approx([0, 2 / 13.2, 11.2 / 13.2])
