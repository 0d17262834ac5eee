"""The model of Headstart in plain PyTorch: what the goldens are computed with.

Owns: the forward pass of all layouts with every option, the losses, and the names and
shapes of the parameters. Written from the description (`docs/goldens.md`), one sequence at a time
and without any fused operation, so that it can be compared with the formulas by eye.
Never: files, random numbers, the cases themselves (`golden.py`).

Shape letters: T length of one sequence, N packed tokens (the sum of the lengths), B sequences,
C embed_dim, H heads, D head_dim, F hidden_dim, V vocab_size, P positions, A adapters_dim,
K classes.
"""

import math

import torch
import torch.nn.functional as F


def layout(case):
    """The options of the trunk: its family's, with what the case changes."""
    families = {
        "naacl2019": {"norm": "stream", "norm_eps": 1e-12, "embedding_norm": False, "final_norm": False,
                      "activation": "relu", "gated": False, "bias": True, "norm_bias": True, "token_types": 0,
                      "position_offset": 0, "rotary_theta": 10000.0, "local_rotary_theta": 10000.0, "window": 0,
                      "global_every": 0},
        "gpt2": {"norm": "before", "norm_eps": 1e-5, "embedding_norm": False, "final_norm": True,
                 "activation": "gelu_tanh", "gated": False, "bias": True, "norm_bias": True, "token_types": 0,
                 "position_offset": 0, "rotary_theta": 10000.0, "local_rotary_theta": 10000.0, "window": 0,
                 "global_every": 0},
    }
    return families[case["arch"]] | case.get("layout", {})


def parameter_shapes(case):
    """Name -> shape of every parameter of a case, in the order of the model."""
    c, f, a = case["embed_dim"], case["hidden_dim"], case["adapters_dim"]
    options = layout(case)
    shapes = {
        "transformer.token_embedding.weight": (case["vocab_size"], c),
        "transformer.position_embedding.weight": (options["position_offset"] + case["num_max_positions"], c),
    }
    if options["token_types"] > 0:
        shapes["transformer.token_type_embedding.weight"] = (options["token_types"], c)
    if case["cls_offset"]:
        shapes["transformer.cls_offset.weight"] = (1, c)
    if options["embedding_norm"]:
        shapes["transformer.embedding_norm.weight"] = (c,)
        shapes["transformer.embedding_norm.bias"] = (c,)
    for i in range(case["num_layers"]):
        p = f"transformer.layers.{i}."
        shapes[p + "norm_1.weight"] = (c,)
        shapes[p + "norm_1.bias"] = (c,)
        shapes[p + "attention.in_proj.weight"] = (3 * c, c)
        shapes[p + "attention.in_proj.bias"] = (3 * c,)
        shapes[p + "attention.out_proj.weight"] = (c, c)
        shapes[p + "attention.out_proj.bias"] = (c,)
        kind = adapters(case)["kind"]
        if a > 0 and kind == "houlsby":
            shapes |= adapter_shapes(p + "adapter_attention.", c, a)
        shapes[p + "norm_2.weight"] = (c,)
        shapes[p + "norm_2.bias"] = (c,)
        up = 2 * f if options["gated"] else f
        shapes[p + "feed_forward.up.weight"] = (up, c)
        shapes[p + "feed_forward.up.bias"] = (up,)
        shapes[p + "feed_forward.down.weight"] = (c, f)
        shapes[p + "feed_forward.down.bias"] = (c,)
        if a > 0:
            shapes |= adapter_shapes(p + ("adapter_parallel." if kind == "parallel" else "adapter_feed_forward."), c, a)
    if options["final_norm"]:
        shapes["transformer.final_norm.weight"] = (c,)
        shapes["transformer.final_norm.bias"] = (c,)
    if case["head"] is not None:
        shapes |= head_shapes(case["head"], c, case["num_layers"])
    if case["positions"] == "rotary":
        del shapes["transformer.position_embedding.weight"]
    if not options["bias"]:
        linears = ("in_proj.bias", "out_proj.bias", "feed_forward.up.bias", "feed_forward.down.bias")
        shapes = {n: s for n, s in shapes.items() if not n.endswith(linears)}
    if not options["norm_bias"]:
        shapes = {n: s for n, s in shapes.items() if not ("norm" in n and n.endswith(".bias"))}
    return shapes


def head_shapes(head, c, layers):
    """A linear over the poolings side by side; or one to a hidden layer, and one of that. Before it the weights of a mix of all layers."""
    shapes = {}
    if head.get("layer_mix"):
        shapes["classification_head.mix.weight"] = (layers + 1,)
        shapes["classification_head.mix.scale"] = (1,)
    hidden, k = head.get("hidden"), head["num_classes"]
    name, outputs = ("classification_head.hidden", hidden["width"]) if hidden else ("classification_head", k)
    shapes |= {f"{name}.weight": (outputs, c), f"{name}.bias": (outputs,)}
    for part in head["pooling"].split("+")[1:]:
        shapes[f"{name}.{part}.weight"] = (outputs, c)
    if hidden:
        shapes |= {"classification_head.weight": (k, outputs), "classification_head.bias": (k,)}
    return shapes


def adapters(case):
    """Where a case's adapters stand, and what they compute."""
    return {"kind": "houlsby", "scale": 1.0} | case.get("adapters", {})


def adapter_shapes(prefix, c, a):
    """The two linears of one bottleneck adapter."""
    return {
        prefix + "down.weight": (a, c),
        prefix + "down.bias": (a,),
        prefix + "up.weight": (c, a),
        prefix + "up.bias": (c,),
    }


def sinusoidal_table(positions, c):
    """[P, C] in f64: sin(p / 10000^(2i/C)) in column 2i, cos of the same angle in column 2i + 1."""
    p = torch.arange(positions, dtype=torch.float64)[:, None]
    column = torch.arange(c)[None, :]
    angle = p / 10000.0 ** ((column // 2 * 2).to(torch.float64) / c)
    return torch.where(column % 2 == 0, torch.sin(angle), torch.cos(angle))


def rotated(x, theta):
    """[H, T, D] -> [H, T, D]: columns i and i + D/2 as a complex number, times exp(i position theta^(-2i/D))."""
    half = x.shape[-1] // 2
    rate = theta ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = torch.arange(x.shape[-2], dtype=torch.float64)[:, None] * rate
    cos, sin = torch.cos(angle).to(x.dtype), torch.sin(angle).to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def activation(name, x):
    """ReLU, tanh, SiLU, GELU, or GELU in its tanh form."""
    if name == "relu":
        return torch.relu(x)
    if name == "tanh":
        return torch.tanh(x)
    if name == "silu":
        return x * torch.sigmoid(x)
    return F.gelu(x, approximate="tanh" if name == "gelu_tanh" else "none")


class Forward:
    """One forward pass over a packed batch; `drop` is `None` or (x, site, layer, sequence) -> x."""

    def __init__(self, case, params, drop=None):
        self.case, self.params, self.layout = case, params, layout(case)
        self.drop = drop or (lambda x, site, layer, sequence: x)
        self.relu_inputs = []

    def linear(self, x, name):
        return F.linear(x, self.params[name + ".weight"], self.params.get(name + ".bias"))

    def norm(self, x, name):
        weight, bias = self.params[name + ".weight"], self.params.get(name + ".bias")
        return F.layer_norm(x, x.shape[-1:], weight, bias, self.layout["norm_eps"])

    def act(self, name, x):
        if name == "relu":
            self.relu_inputs.append(x.detach())
        return activation(name, x)

    def embed(self, ids, types, sequence):
        """[T] ids and token types (`None`: the model has none) -> [T, C]."""
        h = self.params["transformer.token_embedding.weight"][ids]
        if self.case["cls_offset"]:
            is_cls = (ids == self.case["cls_id"]).to(h.dtype)[:, None]
            h = h + is_cls * self.params["transformer.cls_offset.weight"]
        if self.case["positions"] != "rotary":
            first = self.layout["position_offset"]
            h = h + self.params["transformer.position_embedding.weight"][first : first + len(ids)]
        if types is not None:
            h = h + self.params["transformer.token_type_embedding.weight"][types]
        if self.layout["embedding_norm"]:
            h = self.norm(h, "transformer.embedding_norm")
        return self.drop(h, "embedding", 0, sequence)

    def window(self, layer):
        """How far a layer sees; `None` for whole sequences."""
        every = self.layout["global_every"]
        is_global = every > 0 and layer % every == 0
        return self.layout["window"] if self.layout["window"] > 0 and not is_global else None

    def attention(self, x, layer, sequence):
        """[T, C] -> [T, C], softmax(q k' / sqrt(D)) v per head, then the output projection."""
        t, c = x.shape
        heads = self.case["num_heads"]
        prefix = f"transformer.layers.{layer}.attention."
        qkv = self.linear(x, prefix + "in_proj").view(t, 3, heads, c // heads)
        q, k, v = qkv.permute(1, 2, 0, 3)
        window = self.window(layer)
        if self.case["positions"] == "rotary":
            theta = self.layout["rotary_theta" if window is None else "local_rotary_theta"]
            q, k = rotated(q, theta), rotated(k, theta)
        scores = q @ k.transpose(1, 2) / math.sqrt(c // heads)
        if self.case["causal"]:
            future = torch.ones(t, t, dtype=torch.bool).triu(1)
            scores = scores.masked_fill(future, -math.inf)
        if window is not None:
            at = torch.arange(t)
            scores = scores.masked_fill((at[:, None] - at[None, :]).abs() > window, -math.inf)
        probs = self.drop(torch.softmax(scores, -1), "attention_probs", layer, sequence)
        mixed = (probs.to(v.dtype) @ v).transpose(0, 1).reshape(t, c)
        return self.drop(self.linear(mixed, prefix + "out_proj"), "attention", layer, sequence)

    def feed_forward(self, x, layer, sequence):
        prefix = f"transformer.layers.{layer}.feed_forward."
        x = self.linear(x, prefix + "up")
        if self.layout["gated"]:
            a, b = x.chunk(2, -1)
            x = self.act(self.layout["activation"], a) * b
        else:
            x = self.act(self.layout["activation"], x)
        return self.drop(self.linear(x, prefix + "down"), "feed_forward", layer, sequence)

    def adapt(self, x, layer, name):
        """x + up(activation(down(x))), or x where the model has no such adapters."""
        prefix = f"transformer.layers.{layer}.{name}."
        if self.case["adapters_dim"] == 0 or prefix + "down.weight" not in self.params:
            return x
        return x + self.bottleneck(x, prefix)

    def bottleneck(self, x, prefix):
        inner = self.act(self.case["adapter_activation"], self.linear(x, prefix + "down"))
        return self.linear(inner, prefix + "up")

    def beside(self, x, layer):
        """scale * up(activation(down(x))) of what a feed-forward reads, or 0 where the model has no such adapters."""
        prefix = f"transformer.layers.{layer}.adapter_parallel."
        if prefix + "down.weight" not in self.params:
            return 0.0
        return adapters(self.case)["scale"] * self.bottleneck(x, prefix)

    def block(self, h, layer, sequence):
        """One layer: x + f(LN(x)), LN(x + f(x)), or y + f(y) with y = LN(x), for each sublayer f."""
        place = self.layout["norm"]
        for norm, sublayer, adapter in (
            ("norm_1", self.attention, "adapter_attention"),
            ("norm_2", self.feed_forward, "adapter_feed_forward"),
        ):
            normalise = lambda x: self.norm(x, f"transformer.layers.{layer}.{norm}")
            x = h if place == "after" else normalise(h)
            a = self.adapt(sublayer(x, layer, sequence), layer, adapter)
            a = a + self.beside(x, layer) if norm == "norm_2" else a
            h = (x if place == "stream" else h) + a
            h = normalise(h) if place == "after" else h
        return h

    def trunk(self, inputs):
        """Packed [N] ids (and token types) -> the list of L + 1 packed [N, C] hidden states, and the trunk's output.

        State 0 is the (dropped-out) embedding and state i + 1 the output of layer i; the output is
        the last state, after the final norm where there is one.
        """
        states = [[] for _ in range(self.case["num_layers"] + 1)]
        for sequence, (ids, types) in enumerate(sequences(inputs)):
            h = self.embed(ids, types, sequence)
            states[0].append(h)
            for layer in range(self.case["num_layers"]):
                h = self.block(h, layer, sequence)
                states[layer + 1].append(h)
        states = [torch.cat(s) for s in states]
        output = states[-1]
        if self.layout["final_norm"]:
            output = self.norm(output, "transformer.final_norm")
        return states, output

    def mixed(self, states):
        """ELMo's mix of L + 1 packed [N, C] (Peters et al. 2018, equation 1)."""
        shares = torch.softmax(self.params["classification_head.mix.weight"], 0)
        return self.params["classification_head.mix.scale"] * sum(s * h for s, h in zip(shares, states))

    def pool(self, hidden, lengths, how):
        """Packed [N, C] -> [B, C]; mean and max run over every token of the sequence."""
        rows = []
        for h in torch.split(hidden, lengths):
            if how == "mean":
                rows.append(h.mean(0))
            elif how == "max":
                rows.append(h.max(0).values)
            else:  # "cls" and "last": the last token; with "cls" that is the [CLS] token
                rows.append(h[-1])
        return torch.stack(rows)


def sequences(inputs):
    """The ids of each sequence, and its token types or `None`."""
    lengths = inputs["lengths"].tolist()
    ids = torch.split(inputs["input_ids"], lengths)
    types = torch.split(inputs["token_type_ids"], lengths) if "token_type_ids" in inputs else [None] * len(ids)
    return list(zip(ids, types))


def forward(case, params, inputs, drop=None):
    """Hidden states, logits and losses of one batch, as a dict of tensors.

    `loss` is clf_coef * clf_loss + lm_coef * lm_loss, over the losses the case has.
    """
    run = Forward(case, params, drop)
    lengths = inputs["lengths"].tolist()
    states, hidden = run.trunk(inputs)
    out = {f"hidden.{i}": h for i, h in enumerate(states)}
    out["hidden"] = hidden
    total = 0.0
    if case["lm"] is not None:
        logits = hidden @ params["transformer.token_embedding.weight"].T
        out["lm_logits"] = logits
        # The softmax of the loss runs in the wide type of the parameters, whatever the product ran in.
        at_targets = logits[inputs["target_positions"]].to(params["transformer.token_embedding.weight"].dtype)
        out["lm_loss"] = F.cross_entropy(at_targets, inputs["target_ids"])
        total = total + case["lm"]["coef"] * out["lm_loss"]
    if case["head"] is not None:
        first, *others = case["head"]["pooling"].split("+")
        read = run.mixed([*states[:-1], hidden]) if case["head"].get("layer_mix") else hidden
        rows = run.pool(read, lengths, first)
        if case["head"]["problem"] == "pairs":
            # The loss of sentence-transformers (`CosineSimilarityLoss`): the cosine of each two rows against 1 or 0.
            logits = F.cosine_similarity(rows[0::2], rows[1::2], dim=1)[:, None]
        else:
            layer = case["head"].get("hidden")
            name = "classification_head.hidden" if layer else "classification_head"
            logits = run.linear(rows, name)
            for part in others:
                # The columns of one linear over all rows side by side.
                logits = logits + run.pool(read, lengths, part) @ params[f"{name}.{part}.weight"].T
            if layer:
                logits = run.linear(run.act(layer["activation"], logits), "classification_head")
        out["clf_logits"] = logits
        out["clf_loss"] = classification_loss(case["head"]["problem"], logits, inputs["labels"])
        total = total + case["head"]["coef"] * out["clf_loss"]
    out["loss"] = total
    return out, run


def classification_loss(problem, logits, labels):
    """Mean over the examples (and over the classes, for more than one label)."""
    if problem == "single_label":
        return F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), labels)
    labels = labels.to(logits.dtype)
    if problem == "multi_label":
        return F.binary_cross_entropy_with_logits(logits, labels)
    return F.mse_loss(logits[:, 0], labels)


def padded_trunk(case, params, inputs):
    """The trunk a second time, out of PyTorch's own modules and on a padded batch.

    It shows that packing changes nothing and that `in_proj` is laid out as PyTorch's
    `MultiheadAttention` has it. Without dropout. Returns the packed [N, C] output.
    """
    lengths = inputs["lengths"].tolist()
    t = max(lengths)
    padding = torch.arange(t)[None, :] >= inputs["lengths"][:, None]
    future = torch.ones(t, t, dtype=torch.bool).triu(1) if case["causal"] else None
    run = Forward(case, params)
    h = [run.embed(ids, types, 0) for ids, types in sequences(inputs)]
    h = torch.nn.utils.rnn.pad_sequence(h)
    place = layout(case)["norm"]
    for layer in range(case["num_layers"]):
        prefix = f"transformer.layers.{layer}."
        normed = h if place == "after" else run.norm(h, prefix + "norm_1")
        a, _ = F.multi_head_attention_forward(
            normed, normed, normed, case["embed_dim"], case["num_heads"],
            params[prefix + "attention.in_proj.weight"], params.get(prefix + "attention.in_proj.bias"),
            None, None, False, 0.0,
            params[prefix + "attention.out_proj.weight"], params.get(prefix + "attention.out_proj.bias"),
            key_padding_mask=padding, attn_mask=future, need_weights=False,
        )
        h = (normed if place == "stream" else h) + run.adapt(a, layer, "adapter_attention")
        h = run.norm(h, prefix + "norm_1") if place == "after" else h
        normed = h if place == "after" else run.norm(h, prefix + "norm_2")
        a = run.adapt(run.feed_forward(normed, layer, 0), layer, "adapter_feed_forward")
        h = (normed if place == "stream" else h) + a + run.beside(normed, layer)
        h = run.norm(h, prefix + "norm_2") if place == "after" else h
    if layout(case)["final_norm"]:
        h = run.norm(h, "transformer.final_norm")
    return h.transpose(0, 1)[~padding]
