"""transformers loads every export, and its logits are ours: the whole model, drafts, exits that it reaches by itself; in any number
of files and any type; and its own early exits give the text that it gives without."""

import json

import pytest
import torch
import torch.nn.functional as F
from job import run
from ours import ours
from report import differ, note
from stock import exit_weights, stock
from transformers import AutoModelForCausalLM
from transformers_test import CONFIGURATIONS, validation_tokens

TOLERANCE = 1e-4  # absolute, of fp32 logits of a few units


def load(directory, **options):
    return AutoModelForCausalLM.from_pretrained(directory, **({"dtype": torch.float32} | options)).eval()


@torch.no_grad()
def logits_of(model, samples):
    return model(input_ids=samples[:, :-1]).logits


@pytest.fixture(scope="module")
def said(trained):
    """said(name): the configuration's run, its samples, our logits by head."""
    known = {}

    def get(name):
        if name not in known:
            samples = validation_tokens(trained(name).config)
            known[name] = trained(name), samples, ours(trained(name).checkpoint, samples)[0]
        return known[name]

    return get


def loss_of(logits, samples):
    return F.cross_entropy(logits.flatten(0, 1), samples[:, 1:].flatten())


def family(name):
    return "a GPT-2" if name.startswith("gpt2") else "a Llama"


def is_shared(exit):
    return (exit.get("head", "norm"), exit.get("norm"), exit.get("output")) == ("norm", "shared", "shared")


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_whole_model(said, name):
    done, samples, logits = said(name)
    assert differ("transformers", f"logits of {family(name)}", logits["final"], logits_of(load(done.exported), samples)) < TOLERANCE


@pytest.mark.parametrize("name", [*CONFIGURATIONS, "frozen", "gpt2_frozen"])
def test_drafts(said, name, tmp_path):
    done, samples, logits = said(name)
    for exit in done.config["exits"]:
        if exit.get("head") == "bare":  # none: these architectures always norm
            continue
        layer, draft = str(exit["layer"]), tmp_path / str(exit["layer"])
        run(["export", "draft", done.checkpoint, draft, "--exit", layer])
        theirs = logits_of(load(draft), samples)
        assert differ("transformers", f"logits of drafts of {family(name)}", logits[layer], theirs) < TOLERANCE, exit


SUBNETS = [{"intermediate_size": 24, "num_key_value_heads": 2, "queries_per_group": 1}, {"hidden_size": 32, "intermediate_size": 72},
           {"num_hidden_layers": 4}, {"num_hidden_layers": 6, "hidden_size": 48, "num_key_value_heads": 2},
           {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 24, "num_key_value_heads": 2, "queries_per_group": 1}]


@pytest.mark.parametrize("subnet", SUBNETS, ids=lambda subnet: "_".join(map(str, subnet.values())))
def test_subnets(trained, tmp_path, subnet):
    """A stock model of smaller sizes, whose loss is what eval says of the subnet; its exits are those of the whole, narrower."""
    done, small, text = trained("supernet"), tmp_path / "small", json.dumps(subnet)
    samples = validation_tokens(done.config)
    arguments = ["--data", done.config["data"]["validation"], "--samples", len(samples), "--json"]
    said = json.loads(run(["eval", done.checkpoint, *arguments, "--subnet", text]))
    run(["export", "hf", done.checkpoint, small, "--subnet", text])
    config = json.loads((small / "config.json").read_text())
    assert {key: config[key] for key in subnet if key in config} == {key: value for key, value in subnet.items() if key in config}
    stock_model, weights = stock(small, samples[:, :-1]), exit_weights(small)
    assert differ("transformers", "losses of subnets", torch.tensor(said["final_loss"]), loss_of(stock_model.logits, samples)) < TOLERANCE
    exits = json.loads((small / "exits.json").read_text())["exits"]
    assert [str(e["layer"]) for e in exits] == list(said["exit_losses"])
    for spec in exits:
        loss = torch.tensor(said["exit_losses"][str(spec["layer"])])
        assert differ("transformers", "losses of subnets' exits", loss, loss_of(stock_model.exit_logits(spec, weights), samples)) < TOLERANCE


@pytest.mark.parametrize("name", ["tied", "stretched", "gpt2_tied"])
def test_fewer_layers_are_a_shared_exit(said, name):
    done, samples, logits = said(name)
    shared = [exit["layer"] for exit in done.config["exits"] if is_shared(exit)]
    assert shared
    for layer in shared:
        theirs = logits_of(load(done.exported, num_hidden_layers=layer), samples)
        assert differ("transformers", f"logits of {family(name)} with num_hidden_layers=E", logits[str(layer)], theirs) < TOLERANCE


@pytest.mark.parametrize("name, layer", [("tied", 1), ("stretched", 5)])  # transformers' GPT-2 always runs all layers that it has
def test_assistant_early_exit(said, name, layer):
    done, samples, _ = said(name)
    model = load(done.exported)
    calls = {}
    for i, decoder in enumerate(model.model.layers):
        decoder.register_forward_hook(lambda *_, i=i: calls.__setitem__(i, calls.get(i, 0) + 1))
    prompt, options = samples[:1, :20], {"max_new_tokens": 40, "do_sample": False}
    plain = model.generate(prompt, **options)
    calls.clear()
    early = model.generate(prompt, assistant_early_exit=layer, **options)
    assert early.tolist() == plain.tolist()
    assert calls[layer - 1] > calls[layer], "its layers did not draft"
    finding = f"equal, {name}: {calls[layer]} runs of all layers for {plain.shape[1] - 20} tokens"
    note("transformers", "text with assistant_early_exit=E", finding)


@pytest.mark.parametrize("name", ["every_head", "gpt2_tied"])
def test_types_and_shards(trained, tmp_path, name):
    done = trained(name)
    whole = load(done.exported).state_dict()
    run(["export", "hf", done.checkpoint, tmp_path / "shards", "--max-shard-size", "100KB"])
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 1
    for dtype, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        directory = tmp_path / ("shards" if dtype == "fp32" else dtype)
        if dtype != "fp32":
            run(["export", "hf", done.checkpoint, directory, "--dtype", dtype])
        theirs = load(directory, dtype="auto").state_dict()
        assert theirs.keys() == whole.keys()
        assert all(torch.equal(theirs[key], whole[key].to(kind)) and theirs[key].dtype == kind for key in whole)
