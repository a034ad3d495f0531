"""What our model says: logits and losses of every head of a checkpoint, by the program of logits.cpp."""

import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from job import binary


def ours(checkpoint: Path, samples: torch.Tensor) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """samples [n, s + 1] -> by head ("1", ..., "final"): logits [n, s, vocabulary] of all but the last token; the mean loss."""
    count, length = samples.shape[0], samples.shape[1] - 1
    program = Path(binary()).parent / "tests/reference/reference_logits"
    with tempfile.TemporaryDirectory() as folder:
        samples.numpy().astype(np.int32).tofile(f"{folder}/tokens")
        command = [program, checkpoint, f"{folder}/tokens", str(length), f"{folder}/logits"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        losses = json.loads(done.stdout)
        logits = torch.from_numpy(np.fromfile(f"{folder}/logits", np.float32)).view(count, len(losses), length, -1)
    return {head: logits[:, i] for i, head in enumerate(losses)}, losses
