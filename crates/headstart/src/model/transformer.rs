//! The trunk: embeddings, blocks, and GPT-2's final norm.

use headstart_engine::ops::attention::KeyValueCache;
use headstart_engine::ops::embedding::Embedding;
use headstart_engine::{Dropout, Tape, Value};

use crate::config::{Arch, ModelConfig, Positions};
use crate::model::block::{Block, Norm};
use crate::params::{Group, Init, ParamId, ParamTable};

/// Token and position embeddings, L blocks.
#[derive(Clone, Debug)]
pub(super) struct Transformer {
    token_embedding: ParamId,
    position_embedding: ParamId,
    offset: Option<(u32, ParamId)>,
    blocks: Vec<Block>,
    final_norm: Option<Norm>,
}

/// Dropout sites: 0 is the embedding; a block has the three after `1 + 3 * layer`.
const EMBEDDING_SITE: u32 = 0;

impl Transformer {
    pub(super) fn new(config: &ModelConfig, table: &mut ParamTable) -> Self {
        let init = Init::Normal(config.initializer_range);
        let width = config.embed_dim;
        let tokens = [config.vocab_size, width];
        let token_embedding = table.add("transformer.token_embedding.weight", &tokens, init, Group::Trunk);
        let (init, group) = match config.positions {
            Positions::Learned => (init, Group::Trunk),
            Positions::Sinusoidal => (Init::Sinusoidal, Group::Fixed),
        };
        let positions = [config.num_max_positions, width];
        let position_embedding = table.add("transformer.position_embedding.weight", &positions, init, group);
        let offset = config.offset_token.map(|id| {
            (id, table.add("transformer.cls_offset.weight", &[1, width], Init::Constant(0.0), Group::Offset))
        });
        let blocks = (0..config.num_layers).map(|layer| Block::new(config, table, layer)).collect();
        let final_norm =
            (config.arch == Arch::Gpt2).then(|| Norm::new(config, table, "transformer.final_norm"));
        Self { token_embedding, position_embedding, offset, blocks, final_norm }
    }

    pub(super) fn token_embedding(&self) -> ParamId {
        self.token_embedding
    }

    pub(super) fn forward(
        &self,
        tape: &mut Tape<'_>,
        table: &ParamTable,
        config: &ModelConfig,
        ids: &[u32],
        mut caches: Option<&mut [KeyValueCache]>,
    ) -> Value {
        let embedding = Embedding {
            tokens: table.view(self.token_embedding),
            positions: Some(table.view(self.position_embedding)),
            token_types: None,
            offset: self.offset.map(|(id, param)| (id, table.view(param))),
            dropout: Some(Dropout { p: config.dropout, site: EMBEDDING_SITE }),
        };
        let mut h = tape.embedding(ids, embedding);
        for (layer, block) in self.blocks.iter().enumerate() {
            let cache = caches.as_mut().map(|c| &mut c[layer]);
            h = block.forward(tape, table, config, &h, cache);
        }
        match &self.final_norm {
            Some(norm) => norm.forward(tape, table, &h),
            None => h,
        }
    }
}
