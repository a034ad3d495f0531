"""What the program exports means the same to transformers: the backbone, the exits' heads, the tokenizer."""

import json

import pytest
import torch
import torch.nn.functional as F
from corpus import Samples, read_tokens
from job import Job, run, validation_lines
from jobs import SIZES
from stock import exit_weights, load, stock
from transformers import AutoTokenizer

TOLERANCE = 1e-4  # relative, fp32
# None masks documents, which a stock model does not do.
CONFIGURATIONS = ["every_head", "tied", "scaled", "nesterov", "stretched", "wide_heads", "gpt2_every_head", "gpt2_tied", "gpt2_scaled", "gpt2_nesterov"]


def validation_tokens(config):  # [samples, s + 1]
    samples = Samples(config["data"]["validation"], config["training"]["sequence_length"])
    count = min(config["training"]["validation_samples"], len(samples))
    return torch.from_numpy(samples.batch(0, count)[0])


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_backbone_loss_equals_transformers(trained, name):
    done = trained(name)
    tokens = validation_tokens(done.config)
    model = load(done.exported)
    with torch.no_grad():
        logits = model(input_ids=tokens[:, :-1]).logits  # a GPT-2 has positions for no more
    assert logits.shape == (*tokens[:, 1:].shape, SIZES["vocab_size"])
    tied = model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    assert tied == done.config["model"].get("tie_word_embeddings", False)
    loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).item()
    assert loss == pytest.approx(validation_lines(done.lines)[-1]["final_loss"], rel=TOLERANCE)


@pytest.mark.parametrize("name", [*CONFIGURATIONS, "frozen", "gpt2_frozen"])
@torch.no_grad()
def test_exits_on_transformers_hidden_states(trained, name):
    done = trained(name)
    tokens = validation_tokens(done.config)
    backbone, weights = stock(done.exported, tokens[:, :-1]), exit_weights(done.exported)
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
