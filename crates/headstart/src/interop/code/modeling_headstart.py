"""A model that Headstart trained, for `transformers` (trust_remote_code=True): the trunk, and a head for each task.

Written by `headstart export --to hf --with-code`. Apache-2.0 OR MIT, as Headstart itself.

Shapes: B texts, T tokens with padding, C hidden_size, H heads, D = C / H, F intermediate_size, V vocab_size.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput, MaskedLMOutput, SequenceClassifierOutput

from .configuration_headstart import HeadstartConfig

ACTIVATIONS = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "tanh": torch.tanh,
}


class Norm(nn.Module):
    """Layer norm, with or without a bias."""

    def __init__(self, config):
        super().__init__()
        self.eps = config.norm_eps
        self.weight = nn.Parameter(torch.ones(config.hidden_size))
        self.bias = nn.Parameter(torch.zeros(config.hidden_size)) if config.norm_bias else None

    def forward(self, x):
        return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)


def rotated(x, positions, theta):
    """[B, H, T, D]: columns i and i + D/2 as a complex number, times exp(i position theta^(-2i/D))."""
    half = x.shape[-1] // 2
    rate = theta ** (-torch.arange(half, dtype=torch.float64, device=x.device) / half)
    angle = positions[:, None, :, None].double() * rate
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class Attention(nn.Module):
    """softmax(q k' / sqrt(D)) v for each head, and a linear."""

    def __init__(self, config, layer):
        super().__init__()
        c = config.hidden_size
        is_global = config.global_every > 0 and layer % config.global_every == 0
        self.heads, self.causal, self.rotary = config.num_attention_heads, config.causal, config.positions == "rotary"
        self.window = config.window if config.window > 0 and not is_global else None
        self.theta = config.rotary_theta if self.window is None else config.local_rotary_theta
        self.dropout = config.attention_probs_dropout_prob
        self.in_proj = nn.Linear(c, 3 * c, bias=config.bias)
        self.out_proj = nn.Linear(c, c, bias=config.bias)

    def forward(self, x, positions, mask):
        b, t, c = x.shape
        q, k, v = self.in_proj(x).view(b, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        if self.rotary:
            q, k = rotated(q, positions, self.theta), rotated(k, positions, self.theta)
        distance = positions[:, :, None] - positions[:, None, :]
        seen = mask[:, None, :].expand(b, t, t)
        if self.causal:
            at = torch.arange(t, device=x.device)
            seen = seen & (at[:, None] >= at[None, :])
        if self.window is not None:
            seen = seen & (distance.abs() <= self.window)
        scores = q @ k.transpose(2, 3) / math.sqrt(c // self.heads)
        scores = scores.masked_fill(~seen[:, None], torch.finfo(scores.dtype).min)
        probs = F.dropout(scores.softmax(-1), self.dropout, self.training)
        return self.out_proj((probs @ v).transpose(1, 2).reshape(b, t, c))


class FeedForward(nn.Module):
    """Two linears with an activation between, which may be gated."""

    def __init__(self, config):
        super().__init__()
        c, f = config.hidden_size, config.intermediate_size
        self.gated, self.act = config.gated, ACTIVATIONS[config.activation]
        self.up = nn.Linear(c, 2 * f if config.gated else f, bias=config.bias)
        self.down = nn.Linear(f, c, bias=config.bias)

    def forward(self, x):
        x = self.up(x)
        if self.gated:
            a, b = x.chunk(2, -1)
            return self.down(self.act(a) * b)
        return self.down(self.act(x))


class Adapter(nn.Module):
    """x + up(activation(down(x))): a bottleneck (Houlsby et al. 2019)."""

    def __init__(self, config):
        super().__init__()
        self.act = ACTIVATIONS[config.activation]
        self.down = nn.Linear(config.hidden_size, config.adapters_dim)
        self.up = nn.Linear(config.adapters_dim, config.hidden_size)

    def forward(self, x):
        return x + self.up(self.act(self.down(x)))


class Layer(nn.Module):
    """For each sublayer f: x + f(LN(x)), LN(x + f(x)), or y + f(y) with y = LN(x)."""

    def __init__(self, config, layer):
        super().__init__()
        self.place, self.dropout = config.norm, config.hidden_dropout_prob
        if layer > 0 or config.first_norm:
            self.norm_1 = Norm(config)
        self.attention = Attention(config, layer)
        self.norm_2 = Norm(config)
        self.feed_forward = FeedForward(config)
        if config.adapters_dim:
            self.adapter_attention = Adapter(config)
            self.adapter_feed_forward = Adapter(config)

    def sublayer(self, h, norm, f, adapter):
        norm, adapter = getattr(self, norm, nn.Identity()), getattr(self, adapter, nn.Identity())
        x = h if self.place == "after" else norm(h)
        a = adapter(F.dropout(f(x), self.dropout, self.training))
        h = (x if self.place == "stream" else h) + a
        return norm(h) if self.place == "after" else h

    def forward(self, h, positions, mask):
        h = self.sublayer(h, "norm_1", lambda x: self.attention(x, positions, mask), "adapter_attention")
        return self.sublayer(h, "norm_2", self.feed_forward, "adapter_feed_forward")


class HeadstartPreTrainedModel(PreTrainedModel):
    config_class = HeadstartConfig
    base_model_prefix = "transformer"
    _no_split_modules = ["Layer"]

    def _init_weights(self, module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            module.weight.data.normal_(0.0, self.config.initializer_range)
            if getattr(module, "bias", None) is not None:
                module.bias.data.zero_()


class HeadstartModel(HeadstartPreTrainedModel):
    """The trunk: token ids in, hidden states out."""

    def __init__(self, config):
        super().__init__(config)
        c = config.hidden_size
        self.token_embedding = nn.Embedding(config.vocab_size, c)
        if config.positions != "rotary":
            # Sines and cosines lie in the file like a trained table.
            self.position_embedding = nn.Embedding(config.position_offset + config.max_position_embeddings, c)
            self.position_embedding.weight.requires_grad_(config.positions == "learned")
        if config.offset_token is not None:
            self.cls_offset = nn.Embedding(1, c)
        if config.embedding_norm:
            self.embedding_norm = Norm(config)
        self.layers = nn.ModuleList(Layer(config, layer) for layer in range(config.num_hidden_layers))
        if config.final_norm:
            self.final_norm = Norm(config)
        self.post_init()

    def get_input_embeddings(self):
        return self.token_embedding

    def set_input_embeddings(self, table):
        self.token_embedding = table

    def forward(self, input_ids, attention_mask=None, output_hidden_states=None, return_dict=None, **_):
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        mask = mask.bool()
        # Those of a text count from 0, wherever its padding stands.
        positions = (mask.long().cumsum(-1) - 1).clamp(min=0)
        h = self.token_embedding(input_ids)
        if self.config.offset_token is not None:
            h = h + (input_ids == self.config.offset_token).to(h.dtype)[..., None] * self.cls_offset.weight
        if self.config.positions != "rotary":
            h = h + self.position_embedding(positions + self.config.position_offset)
        if self.config.embedding_norm:
            h = self.embedding_norm(h)
        h = F.dropout(h, self.config.hidden_dropout_prob, self.training)
        states = [h]
        for layer in self.layers:
            h = layer(h, positions, mask)
            states.append(h)
        if self.config.final_norm:
            h = self.final_norm(h)
        return BaseModelOutput(last_hidden_state=h, hidden_states=tuple(states) if output_hidden_states else None)


class HeadstartForSequenceClassification(HeadstartPreTrainedModel):
    """A linear over one row of each text."""

    def __init__(self, config):
        super().__init__(config)
        self.transformer = HeadstartModel(config)
        self.classification_head = nn.Linear(config.hidden_size, config.num_labels, bias=config.head_bias)
        self.post_init()

    def pooled(self, h, mask):
        if self.config.pooling == "mean":
            return (h * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        if self.config.pooling == "max":
            return h.masked_fill(~mask.bool()[..., None], -torch.inf).amax(1)
        # The last token, which is [CLS] where the pooling is "cls".
        last = (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(1)
        return h[torch.arange(len(h), device=h.device), last]

    def forward(self, input_ids, attention_mask=None, labels=None, return_dict=None, **more):
        out = self.transformer(input_ids, attention_mask, **more)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        logits = self.classification_head(self.pooled(out.last_hidden_state, mask))
        loss = None
        if labels is not None:
            if self.config.problem_type == "regression":
                loss = F.mse_loss(logits.squeeze(-1), labels.to(logits.dtype).view(-1))
            elif self.config.problem_type == "multi_label_classification":
                loss = F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
            else:
                loss = F.cross_entropy(logits, labels.view(-1))
        return SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=out.hidden_states)


class HeadstartForCausalLM(HeadstartPreTrainedModel):
    """The next token: hidden states times the token embedding."""

    def __init__(self, config):
        super().__init__(config)
        self.transformer = HeadstartModel(config)
        self.post_init()

    def get_input_embeddings(self):
        return self.transformer.token_embedding

    def forward(self, input_ids, attention_mask=None, labels=None, return_dict=None, **more):
        out = self.transformer(input_ids, attention_mask, **more)
        logits = F.linear(out.last_hidden_state, self.transformer.token_embedding.weight)
        loss = None
        if labels is not None:
            # As everywhere in `transformers`, -100 is no target.
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return CausalLMOutput(loss=loss, logits=logits, hidden_states=out.hidden_states)


class HeadstartForMaskedLM(HeadstartForCausalLM):
    """The token behind a mask."""

    def forward(self, input_ids, attention_mask=None, labels=None, return_dict=None, **more):
        out = super().forward(input_ids, attention_mask, **more)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(out.logits.flatten(0, 1), labels.flatten())
        return MaskedLMOutput(loss=loss, logits=out.logits, hidden_states=out.hidden_states)
