"""20 steps of the program equal 20 steps of PyTorch, from the same initial weights and data."""

import pytest
from job import training_lines, validation_lines
from jobs import COMPARED
from reference import Reference

TOLERANCE = 1e-5  # relative, of fp32 against double. The contract promises 1e-4


def agree(ours: dict, theirs: dict) -> list[str]:
    """What differs between two lines, in words."""
    names = [name for name in ("loss", "final_loss", "lr", "grad_norm") if theirs.get(name) is not None]
    assert (ours["final_loss"] is None) == (theirs["final_loss"] is None)
    pairs = {name: (ours[name], theirs[name]) for name in names}
    assert ours["exit_losses"].keys() == theirs["exit_losses"].keys()
    pairs |= {f"exit {layer}": (ours["exit_losses"][layer], loss) for layer, loss in theirs["exit_losses"].items()}
    for compared in ("exit_acceptances", "exit_agreements"):
        assert ours.get(compared, {}).keys() == theirs.get(compared, {}).keys()
        pairs |= {f"{compared} {layer}": (ours[compared][layer], value) for layer, value in theirs.get(compared, {}).items()}
    return [f"step {theirs['step']}, {name}: {a!r}, PyTorch {b!r}, off by {abs(a - b) / abs(b):.2g}"
            for name, (a, b) in pairs.items() if abs(a - b) > TOLERANCE * abs(b)]


@pytest.mark.parametrize("name", COMPARED)
def test_training_equals_pytorch(trained, name):
    run = trained(name)
    ours, expected = run.lines, list(Reference(run.config, run.initial).run())
    steps, validation = training_lines(ours), validation_lines(ours)
    assert [line["step"] for line in steps] == list(range(1, 21))
    assert len(validation) == 1
    differences = [d for a, b in zip(steps + validation, expected, strict=True) for d in agree(a, b)]
    assert not differences, "\n" + "\n".join(differences)
    falls = "loss" if expected[0]["final_loss"] is None else "final_loss"
    assert expected[19][falls] < expected[0][falls]
    clip = run.config["optimizer"].get("clip_grad_norm", 1.0)
    assert clip == 0 or any(line["grad_norm"] > clip for line in steps), "the configuration does not clip"
