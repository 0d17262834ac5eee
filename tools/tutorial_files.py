"""Writes the files that the tutorial's own program left, of a small model, with the logits that PyTorch computes in f64.

    python tools/tutorial_files.py            writes tests/golden/tutorial/

Needs torch, numpy and safetensors. The names are those of `pretraining_model.py` of the NAACL 2019 tutorial, the format
that of `torch.save` in 2019: a legacy pickle, not a zip.

Owns: the names, the sizes, the random weights. Never: the formula of the model (`torch_reference.py`).
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file

import torch_reference as reference

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "golden" / "tutorial"
# The arguments that the tutorial's pretraining is called with, and what its program adds to them.
ARGUMENTS = argparse.Namespace(
    dataset_path="wikitext-103", dataset_cache="./dataset_cache.bin", embed_dim=15, hidden_dim=22, num_max_positions=13,
    num_heads=3, num_layers=2, dropout=0.1, initializer_range=0.02, sinusoidal_embeddings=False, mlm=False,
    mlm_probability=0.15, train_batch_size=8, valid_batch_size=8, lr=2.5e-4, max_norm=0.25, weight_decay=0.0,
    n_epochs=50, n_warmup=1000, eval_every=-1, gradient_accumulation_steps=1, device="cuda", fp16="", local_rank=-1,
    num_embeddings=29,
)
WORDS = "the cat sat on a mat and saw river boat green old lake he she it was is not very . ##s ##ed"


def theirs(name):
    """The tutorial's name of a parameter of ours."""
    if not name.startswith("transformer.layers."):
        return name.replace("token_embedding", "tokens_embeddings").replace("position_embedding", "position_embeddings")
    _, _, n, *rest, ending = name.split(".")
    return "transformer." + {
        "norm_1": f"layer_norms_1.{n}.",
        "norm_2": f"layer_norms_2.{n}.",
        "attention.in_proj": f"attentions.{n}.in_proj_",
        "attention.out_proj": f"attentions.{n}.out_proj.",
        "feed_forward.up": f"feed_forwards.{n}.0.",
        "feed_forward.down": f"feed_forwards.{n}.2.",
    }[".".join(rest)] + ending


def main():
    case = {
        "arch": "naacl2019", "causal": True, "positions": "learned", "vocab_size": ARGUMENTS.num_embeddings,
        "num_max_positions": ARGUMENTS.num_max_positions, "embed_dim": ARGUMENTS.embed_dim,
        "num_heads": ARGUMENTS.num_heads, "hidden_dim": ARGUMENTS.hidden_dim, "num_layers": ARGUMENTS.num_layers,
        "adapters_dim": 0, "cls_offset": False, "head": None,
    }
    random = torch.Generator().manual_seed(2019)
    draw = lambda shape: (torch.randn(shape, generator=random, dtype=torch.float64) * 0.3).float()
    params = {name: draw(shape) for name, shape in reference.parameter_shapes(case).items()}
    state = {theirs(name): value for name, value in params.items()}
    state["lm_head.weight"] = state["transformer.tokens_embeddings.weight"]  # tied: one storage, as it was saved
    FOLDER.mkdir(parents=True, exist_ok=True)
    torch.save(state, FOLDER / "model_checkpoint.pth", _use_new_zipfile_serialization=False)
    torch.save(ARGUMENTS, FOLDER / "model_training_args.bin", _use_new_zipfile_serialization=False)
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS.split(), "!"]
    assert len(pieces) == ARGUMENTS.num_embeddings, len(pieces)
    (FOLDER / "vocab.txt").write_text("\n".join(pieces) + "\n")

    ids = torch.tensor([5, 6, 7, 8, 5, 10, 25, 3, 9, 14, 1, 28])
    params = {name: value.double() for name, value in params.items()}
    model = reference.Forward(case, params)
    _, hidden = model.trunk({"input_ids": ids, "lengths": torch.tensor([len(ids)])})
    logits = hidden @ params["transformer.token_embedding.weight"].T
    save_file({"input_ids": ids.int(), "logits": logits.float()}, FOLDER / "expected.safetensors")


if __name__ == "__main__":
    main()
