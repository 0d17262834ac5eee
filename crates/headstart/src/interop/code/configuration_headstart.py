"""The configuration of a model that Headstart trained, for `transformers` (trust_remote_code=True).

Written by `headstart export --to hf --with-code`. Apache-2.0 OR MIT, as Headstart itself.
"""

from transformers import PretrainedConfig


class HeadstartConfig(PretrainedConfig):
    """Sizes and options of the one trunk; config.json beside this file says all of them."""

    model_type = "headstart_decoder"

    def __init__(
        self,
        vocab_size=28997,
        hidden_size=410,
        intermediate_size=2100,
        num_attention_heads=10,
        num_hidden_layers=16,
        max_position_embeddings=256,
        positions="learned",
        causal=True,
        hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.1,
        initializer_range=0.02,
        adapters_dim=None,
        offset_token=None,
        pooling="cls",
        norm="stream",
        norm_eps=1e-12,
        embedding_norm=False,
        final_norm=False,
        first_norm=True,
        activation="relu",
        gated=False,
        bias=True,
        norm_bias=True,
        head_bias=True,
        position_offset=0,
        rotary_theta=10000.0,
        local_rotary_theta=10000.0,
        window=0,
        global_every=0,
        **more,
    ):
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_attention_heads = num_attention_heads
        self.num_hidden_layers = num_hidden_layers
        self.max_position_embeddings = max_position_embeddings
        self.positions = positions
        self.causal = causal
        self.hidden_dropout_prob = hidden_dropout_prob
        self.attention_probs_dropout_prob = attention_probs_dropout_prob
        self.initializer_range = initializer_range
        self.adapters_dim = adapters_dim
        self.offset_token = offset_token
        self.pooling = pooling
        self.norm = norm
        self.norm_eps = norm_eps
        self.embedding_norm = embedding_norm
        self.final_norm = final_norm
        self.first_norm = first_norm
        self.activation = activation
        self.gated = gated
        self.bias = bias
        self.norm_bias = norm_bias
        self.head_bias = head_bias
        self.position_offset = position_offset
        self.rotary_theta = rotary_theta
        self.local_rotary_theta = local_rotary_theta
        self.window = window
        self.global_every = global_every
        more.setdefault("use_cache", False)
        # The language model's logits come from the token embedding itself: there is no second matrix to tie.
        more["tie_word_embeddings"] = False
        super().__init__(**more)
