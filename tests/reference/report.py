"""What readers were asked, and by how much they differed from us at most: a table at the end of the tests."""

import torch

rows: dict[tuple[str, str], list[float | str]] = {}  # (reader, what): each difference, and what was allowed


def differ(reader: str, what: str, ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Notes the largest difference between two tensors under (reader, what), and returns it."""
    assert ours.shape == theirs.shape, (reader, what, ours.shape, theirs.shape)
    difference = (ours.double() - theirs.double()).abs().max().item()
    rows.setdefault((reader, what), []).append(difference)
    return difference


def note(reader: str, what: str, finding: str):
    rows.setdefault((reader, what), []).append(finding)


def lines_of_report() -> list[str]:
    if not rows:
        return []
    lines = ["", f"{'reader':<14}{'compared':<62}{'times':>6}  largest difference"]
    for (reader, what), found in rows.items():
        numbers = [f for f in found if isinstance(f, float)]
        words = "; ".join(f for f in found if isinstance(f, str))
        lines.append(f"{reader:<14}{what:<62}{len(found):>6}  {f'{max(numbers):.2g}' if numbers else words}")
    return lines
