//! The embeddings below the blocks: token + position (+ token type) (+ the offset of one token), a norm where there is one,
//! dropout, and a linear where the blocks are wider.

use headstart_engine::ops::embedding::Embedding;
use headstart_engine::ops::linear::Linear;
use headstart_engine::{Dropout, Tape, Value, View};

use crate::config::Positions;
use crate::model::Inputs;
use crate::model::norm::Norm;
use crate::model::projection::{Builder, Projection};
use crate::params::{Init, Kind, ParamId, ParamTable, Role};

/// The dropout site; the blocks have those after it.
const SITE: u32 = 0;

/// The tables.
#[derive(Clone, Debug)]
pub(super) struct Embeddings {
    tokens: ParamId,
    /// `None` where positions are not in a table.
    positions: Option<ParamId>,
    /// Rows of the position table that no token uses, below that of position 0.
    position_offset: usize,
    token_types: Option<ParamId>,
    offset: Option<(u32, ParamId)>,
    norm: Option<Norm>,
    /// On what no norm follows; a norm has it behind itself.
    dropout: Option<Dropout>,
    /// To the width of the blocks, where that is another.
    projection: Option<Projection>,
}

impl Embeddings {
    pub(super) fn new(build: &mut Builder<'_>) -> Self {
        let (config, position_offset) = (build.config, build.layout.position_offset);
        let width = config.embedding_size();
        let tokens = [config.vocab_size, width];
        let tokens = build.weight("transformer.token_embedding", &tokens, Kind::TokenEmbedding);
        let shape = [position_offset + config.num_max_positions, width];
        let (name, kind) = ("transformer.position_embedding", Kind::PositionEmbedding);
        let positions = match config.positions {
            Positions::Learned => Some(build.weight(name, &shape, kind)),
            Positions::Sinusoidal => {
                let name = format!("{name}.weight");
                Some(build.table.add(name, &shape, Init::Sinusoidal, None, kind, Role::Weight))
            }
            Positions::Rotary => None,
        };
        let types = [build.layout.token_types, width];
        let token_types = (types[0] > 0)
            .then(|| build.weight("transformer.token_type_embedding", &types, Kind::TokenTypeEmbedding));
        let offset = config
            .offset_token
            .map(|id| (id, build.weight("transformer.cls_offset", &[1, width], Kind::TokenOffset)));
        let dropout = Dropout { p: config.dropout, site: SITE };
        let norm = build
            .layout
            .embedding_norm
            .then(|| Norm::of_width(build, "transformer.embedding_norm", width, Kind::Norm));
        let norm = norm.map(|norm| norm.with_dropout(dropout));
        let dropout = norm.is_none().then_some(dropout);
        let projection = (width != config.embed_dim).then(|| {
            let (name, kind) = ("transformer.embedding_projection", Kind::EmbeddingProjection);
            build.linear(name, config.embed_dim, width, kind)
        });
        Self { tokens, positions, position_offset, token_types, offset, norm, dropout, projection }
    }

    /// The token table, which the LM head shares.
    pub(super) fn tokens(&self) -> ParamId {
        self.tokens
    }

    pub(super) fn forward(&self, tape: &mut Tape<'_>, table: &ParamTable, inputs: Inputs<'_>) -> Value {
        assert!(
            inputs.token_type_ids.is_none() || self.token_types.is_some(),
            "this model has no token types"
        );
        let zeros = if self.token_types.is_some() { vec![0; inputs.input_ids.len()] } else { Vec::new() };
        let types = inputs.token_type_ids.unwrap_or(&zeros);
        let view = |id| table.view(id, tape.step());
        let tables = Embedding {
            tokens: view(self.tokens),
            positions: self.positions.map(|table| rows_from(view(table), self.position_offset)),
            token_types: self.token_types.map(|table| (types, view(table))),
            offset: self.offset.map(|(id, param)| (id, view(param))),
            dropout: self.dropout,
        };
        let h = tape.embedding(inputs.input_ids, tables);
        let h = match &self.norm {
            Some(norm) => norm.forward(tape, table, &h),
            None => h,
        };
        let Some(projection) = &self.projection else { return h };
        // The stream of hidden states is f32, whatever the precision.
        let linear = Linear { f32_output: true, ..projection.linear(tape, table) };
        tape.linear(&h, linear, &[])
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
