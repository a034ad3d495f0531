"""transformers loads every export, and its logits are ours: the whole model, drafts, exits that it reaches by itself; in any number
of files and any type; and its own early exits give the text that it gives without."""

import pytest
import torch
from job import run
from ours import ours
from report import differ, note
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
