"""LayerSkip's recipe, by its formulas and the published generator: which sample skips which layer, and what every loss weighs."""

import math

LAYER = 3  # what a random number is for: initial value, order of data, dropout, skipped layer


def philox4x32(counter: list[int], key: list[int]) -> list[int]:
    """Ten rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", section 3.3) over 32-bit words."""
    (a, b, c, d), (k, m), word = counter, key, 0xFFFFFFFF
    for _ in range(10):
        x, y = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (y >> 32) ^ b ^ k, y & word, (x >> 32) ^ d ^ m, x & word
        k, m = (k + 0x9E3779B9) & word, (m + 0xBB67AE85) & word
    return [a, b, c, d]


def fnv1a(text: str) -> int:
    h = 0xCBF29CE484222325
    for byte in text.encode():
        h = (h ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return h


def uniform(seed: int, use: int, name: str, index: int) -> float:
    """In [0, 1), of 24 bits."""
    counter, identity = index ^ use << 56, fnv1a(name)
    low, high = philox4x32([*words(counter), *words(identity)], words(seed))[:2]
    return ((high << 32 | low) >> 40) / 2**24


def words(value: int) -> list[int]:
    return [value & 0xFFFFFFFF, value >> 32]


def rise(i: int, count: int) -> float:
    return math.exp(i * math.log(2) / (count - 1)) - 1 if count > 1 else 0.0


def rate(config: dict, layer: int, layers: int, t: int, steps: int) -> float:
    """Probability that a sample skips a layer (from 0) at step t (from 0)."""
    in_time = rise(t, steps) if config.get("time", "constant") == "exponential" else 1.0
    return in_time * rise(layer, layers) * float(config["p_max"])


def skips(seed: int, name: str, p: float, samples: range) -> list[bool]:
    """Of global samples, whether each skips the layer of this name."""
    return [uniform(seed, LAYER, name, sample) < p for sample in samples]


def weights(config: dict, exits: list[int], layers: int, t: int, steps: int) -> list[float]:
    """Of the exits at these layers (from 1) and of the final head, at step t (from 0)."""
    scale, last = float(config.get("e_scale", 0.2)), layers - 1

    def on(layer):
        if layer == last:
            return True
        if config.get("curriculum", "rotational") == "rotational":
            return (layer - t) % config.get("rotation", 1) == 0
        return t >= (last - layer) * steps / (2 * layers)

    def importance(layer):
        return scale * sum(range(layer + 1)) if layer < last else last + scale * sum(range(last))

    raw = [on(layer) * importance(layer) for layer in [*(e - 1 for e in exits), last]]
    return [w / sum(raw) for w in raw] if sum(raw) else [0.0] * len(exits) + [1.0]
