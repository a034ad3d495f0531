"""What launch/tune-smollm2 leaves, against transformers: every exit's loss and acceptance, its draft's, and that the model below is the
one that came. By `launch/tune-smollm2 --check`."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from corpus import Samples
from job import run
from report import differ
from safetensors.torch import load_file
from stock import exit_weights, stock
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).resolve().parents[2]
RUNS = ROOT / "runs/tune-smollm2"
LENGTH, COUNT, TOLERANCE = 256, 16, 1e-4  # of fp32 losses of a few units
EXITS = json.loads((RUNS / "hf/exits.json").read_text())["exits"]


@pytest.fixture(scope="module")
def samples():
    return torch.from_numpy(Samples(str(RUNS / "docs_valid"), LENGTH).batch(0, COUNT)[0])


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """A validation of the tuned checkpoint in fp32."""
    folder = tmp_path_factory.mktemp("ours")
    settings = {"model.from": RUNS / "checkpoints", "training.precision": "fp32", "training.steps": 0, "training.validation_samples": COUNT,
                "data.train": RUNS / "docs_train", "data.validation": RUNS / "docs_valid", "checkpoint.directory": "null", "export.hf": "null",
                "logging.directory": folder}
    settings |= {f"exits.{i}.init": "base" for i in range(len(EXITS))}
    options = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    run(["train", ROOT / "configs/tune-smollm2.yaml", *options])
    return json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])


def loss_of(logits, samples):
    return F.cross_entropy(logits.flatten(0, 1), samples[:, 1:].flatten(), reduction="none").double().mean().item()


@pytest.fixture(scope="module")
@torch.no_grad()
def theirs(samples):
    """Of each exit: loss and acceptance, by transformers' layers and norms."""
    weights, parts = exit_weights(RUNS / "hf"), []
    for some in samples.split(4):  # of which all logits fit into memory
        read = stock(RUNS / "hf", some[:, :-1])
        final = read.logits.softmax(-1)
        of_exits = [read.exit_logits(spec, weights) for spec in EXITS]
        parts.append([(loss_of(logits, some), torch.minimum(logits.softmax(-1), final).sum(-1).double().mean().item()) for logits in of_exits])
    return torch.tensor(parts, dtype=torch.float64).mean(0)


@pytest.mark.parametrize("index", range(len(EXITS)))
def test_losses(index, ours, theirs):
    layer = str(EXITS[index]["layer"])
    for what, mine, other in (("losses", ours["exit_losses"][layer], theirs[index, 0]), ("acceptances", ours["exit_acceptances"][layer], theirs[index, 1])):
        assert differ("transformers", f"{what} of SmolLM2's exits", torch.tensor(mine).double(), other) < TOLERANCE, layer


def same_bits(a, b):
    return a.dtype == b.dtype and torch.equal(a.view(torch.int32), b.view(torch.int32))


def test_frozen_tensors():
    """Q4_1 is what came and bf16 what the run computed in; what it froze has the bits that it came with."""
    came, left = load_file(RUNS / "base-hf/model.safetensors"), load_file(RUNS / "hf/model.safetensors")
    assert came.keys() == left.keys() and len(came) == 272
    assert [name for name in came if not same_bits(came[name], left[name])] == []


@pytest.mark.parametrize("layer", [spec["layer"] for spec in EXITS])
def test_drafts(layer, ours, samples):
    draft = AutoModelForCausalLM.from_pretrained(RUNS / f"draft-{layer}", dtype=torch.float32).eval()
    assert draft.config.num_hidden_layers == layer + 1  # the exit's own layer is the last one
    with torch.no_grad():
        theirs = sum(loss_of(draft(some[:, :-1]).logits, some) for some in samples.split(4)) / (COUNT // 4)
    assert differ("transformers", "losses of SmolLM2's drafts", torch.tensor(ours["exit_losses"][str(layer)]).double(), torch.tensor(theirs).double()) < TOLERANCE


@pytest.mark.parametrize("layer", [spec["layer"] for spec in EXITS])
def test_generation(layer):
    """A draft writes by itself, and as another's assistant changes no token."""
    tokenizer = AutoTokenizer.from_pretrained(RUNS / "hf")
    model, draft = (AutoModelForCausalLM.from_pretrained(RUNS / name, dtype=torch.float32).eval() for name in ("hf", f"draft-{layer}"))
    prompt = tokenizer("The kernel keeps a list of", return_tensors="pt")
    options = {"max_new_tokens": 24, "do_sample": False, "pad_token_id": 0}
    assert draft.generate(**prompt, **options).shape[1] > prompt["input_ids"].shape[1]
    assert model.generate(**prompt, **options, assistant_model=draft).tolist() == model.generate(**prompt, **options).tolist()
