"""llama.cpp loads every GGUF file of ours, whole models and drafts, and its probabilities and tokens are ours. By `launch/test --readers`."""

import pytest
from exports_test import CONFIGURATIONS, said  # noqa: F401, a fixture
from job import run
from llama import LlamaCpp
from report import differ
from transformers import AutoTokenizer

TOLERANCE = 1e-3  # of probabilities
LLAMAS = [name for name in CONFIGURATIONS if not name.startswith("gpt2")]


def differ_in_probability(what, ours, theirs):
    return differ("llama.cpp", what, ours.double().softmax(-1), theirs.double().softmax(-1))


@pytest.mark.parametrize("name", LLAMAS)
def test_whole_model(said, name, tmp_path):  # noqa: F811
    done, samples, logits = said(name)
    run(["export", "gguf", done.checkpoint, tmp_path / "model.gguf"])
    assert differ_in_probability("probabilities of a Llama", logits["final"], LlamaCpp(tmp_path / "model.gguf").logits(samples)) < TOLERANCE


@pytest.mark.parametrize("name", LLAMAS)
def test_drafts(said, name, tmp_path):  # noqa: F811
    done, samples, logits = said(name)
    for exit in done.config["exits"]:
        if exit.get("head") == "bare":
            continue
        layer, draft = str(exit["layer"]), tmp_path / f"{exit['layer']}.gguf"
        run(["export", "gguf", done.checkpoint, draft, "--exit", layer])
        assert differ_in_probability("probabilities of drafts of a Llama", logits[layer], LlamaCpp(draft).logits(samples)) < TOLERANCE, exit


@pytest.mark.parametrize("dtype, bits", [("bf16", 8), ("fp16", 11)])
def test_types(said, dtype, bits, tmp_path):  # noqa: F811
    """It multiplies weights of these types with activations rounded to them: a relative error of 2^-bits in each of a sum's terms."""
    done, samples, logits = said("every_head")
    run(["export", "gguf", done.checkpoint, tmp_path / "model.gguf", "--dtype", dtype])
    theirs = LlamaCpp(tmp_path / "model.gguf").logits(samples)
    assert differ_in_probability(f"probabilities of a Llama as {dtype}", logits["final"], theirs) < 4 * 2.0**-bits


def test_tokens(said, tmp_path):  # noqa: F811
    done, _, _ = said("tied")
    run(["export", "gguf", done.checkpoint, tmp_path / "model.gguf"])
    tokenizer, reader = AutoTokenizer.from_pretrained(done.exported), LlamaCpp(tmp_path / "model.gguf")
    for text in ("the early exit", "naïve café: 数字 1234567\n\n\tindented,  two spaces; 👩‍👩‍👧 <0x41>\n"):
        assert reader.tokens(text) == tokenizer.encode(text, add_special_tokens=False)
