//! The embeddings below the blocks: token + position (+ the offset of one token), dropout, and a norm where there is one.

use headstart_engine::ops::embedding::Embedding;
use headstart_engine::{Dropout, Tape, Value, View};

use crate::config::Positions;
use crate::model::Inputs;
use crate::model::norm::Norm;
use crate::model::projection::Builder;
use crate::params::{Init, Kind, ParamId, ParamTable, Role};

/// The dropout site; the blocks have those after it.
const SITE: u32 = 0;

/// The tables.
#[derive(Clone, Debug)]
pub(super) struct Embeddings {
    tokens: ParamId,
    positions: ParamId,
    /// Rows of the position table that no token uses, below that of position 0.
    position_offset: usize,
    offset: Option<(u32, ParamId)>,
    norm: Option<Norm>,
    dropout: Dropout,
}

impl Embeddings {
    pub(super) fn new(build: &mut Builder<'_>) -> Self {
        let (config, position_offset) = (build.config, build.layout.position_offset);
        let width = config.embed_dim;
        let tokens = [config.vocab_size, width];
        let tokens = build.weight("transformer.token_embedding", &tokens, Kind::TokenEmbedding);
        let shape = [position_offset + config.num_max_positions, width];
        let (name, kind) = ("transformer.position_embedding", Kind::PositionEmbedding);
        let positions = match config.positions {
            Positions::Learned => build.weight(name, &shape, kind),
            Positions::Sinusoidal => {
                let name = format!("{name}.weight");
                build.table.add(name, &shape, Init::Sinusoidal, None, kind, Role::Weight)
            }
        };
        let offset = config
            .offset_token
            .map(|id| (id, build.weight("transformer.cls_offset", &[1, width], Kind::TokenOffset)));
        let norm = build.layout.embedding_norm.then(|| Norm::new(build, "transformer.embedding_norm"));
        let dropout = Dropout { p: config.dropout, site: SITE };
        Self { tokens, positions, position_offset, offset, norm, dropout }
    }

    /// The token table, which the LM head shares.
    pub(super) fn tokens(&self) -> ParamId {
        self.tokens
    }

    pub(super) fn forward(&self, tape: &mut Tape<'_>, table: &ParamTable, inputs: Inputs<'_>) -> Value {
        assert!(inputs.token_type_ids.is_none(), "this model has no token types");
        let view = |id| table.view(id, tape.step());
        let tables = Embedding {
            tokens: view(self.tokens),
            positions: Some(rows_from(view(self.positions), self.position_offset)),
            token_types: None,
            offset: self.offset.map(|(id, param)| (id, view(param))),
            dropout: Some(self.dropout),
        };
        let h = tape.embedding(inputs.input_ids, tables);
        match &self.norm {
            Some(norm) => norm.forward(tape, table, &h),
            None => h,
        }
    }
}

/// The rows of a table from the `first` on.
fn rows_from(table: View, first: usize) -> View {
    let skipped = first * table.cols;
    View {
        offset: table.offset + skipped,
        rows: table.rows - first,
        cols: table.cols,
        grad: table.grad.map(|grad| grad + skipped),
    }
}
