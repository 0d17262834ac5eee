"""The dropout masks of `crates/engine/src/rng.rs`, written a second time.

Owns: the mixing functions, the numbering of the places where something is dropped.
Never: a state; a mask is a function of (seed, step, sequence, position, site, column).
"""

import math

import numpy as np
import torch

MASK_64 = (1 << 64) - 1
GOLDEN = 0x9E37_79B9_7F4A_7C15


def mix64(x):
    x = ((x ^ (x >> 30)) * 0xBF58_476D_1CE4_E5B9) & MASK_64
    x = ((x ^ (x >> 27)) * 0x94D0_49BB_1331_11EB) & MASK_64
    return x ^ (x >> 31)


def derive(key, value):
    return mix64(((key + GOLDEN) & MASK_64) ^ mix64((value + GOLDEN) & MASK_64))


def row_key(seed, step, sequence, position):
    return derive(derive(derive(derive(0, seed), step), sequence), position)


def column_hash(key, index):
    x = ((index * 0x9E37_79B9) ^ key) & 0xFFFF_FFFF
    x = ((x ^ (x >> 16)) * 0x21F0_AAAD) & 0xFFFF_FFFF
    x ^= key >> 32
    x = ((x ^ (x >> 15)) * 0x735A_2D97) & 0xFFFF_FFFF
    return x ^ (x >> 15)


def drop_rate(p):
    """(threshold, scale): p in units of 1 / 65,536, and what kept values are multiplied by (an f32)."""
    threshold = math.floor(float(np.float32(p)) * 65536.0 + 0.5)
    return threshold, float(np.float32(65536.0 / (65536.0 - threshold)))


def dropout_factor(key, column, rate):
    block, within = divmod(column, 32)
    bits = column_hash(key, block * 16 + within % 16)
    lane = bits & 0xFFFF if within < 16 else bits >> 16
    return 0.0 if lane < rate[0] else rate[1]


def dropout_sites(config):
    """The site number of every place: the embedding, then three places of each layer in turn."""
    places = ("attention_probs", "attention", "feed_forward")
    layers = [{p: 1 + 3 * layer + i for i, p in enumerate(places)} for layer in range(config["num_layers"])]
    return {"embedding": 0, "layers": layers}


def dropper(config, step):
    """The `drop` of `torch_reference.Forward` at one optimizer step."""
    if config["dropout"] is None:
        return None
    settings = config["dropout"]
    rate = drop_rate(settings["p"])

    def drop(x, site, layer, sequence):
        sites = settings["sites"]
        number = sites["embedding"] if site == "embedding" else sites["layers"][layer][site]
        rows, columns = x.shape[-2:]
        factors = np.empty((x.shape[0] if x.dim() == 3 else 1, rows, columns))
        for position in range(rows):
            row = row_key(settings["seed"], settings["first_step"] + step, sequence, position)
            key = derive(row, number)
            for plane in range(len(factors)):
                # Attention probabilities are [heads, queries, keys], with a key of its own for each head.
                plane_key = derive(key, plane) if x.dim() == 3 else key
                factors[plane, position] = [dropout_factor(plane_key, column, rate) for column in range(columns)]
        return x * torch.from_numpy(factors).view(x.shape).to(x.dtype)

    return drop
