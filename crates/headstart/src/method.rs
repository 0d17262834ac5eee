//! What a fine-tuning method trains: functions of a parameter's kind, role and layer.
//!
//! Owns: which parameters a method ever trains. Never: parameters, steps.

use crate::config::Method;
use crate::params::{Kind, Param, Role};

/// Whether a method ever trains a parameter; `norms` says that layer norms train whatever the method.
pub fn trains(method: Method, norms: bool, param: &Param) -> bool {
    let of_all = method == Method::Full || (method == Method::Bitfit && param.role == Role::Bias);
    match param.kind {
        Kind::Head | Kind::TokenOffset => true,
        Kind::Adapter => of_all || method == Method::Adapters,
        Kind::Lora => of_all || method == Method::Lora,
        Kind::Norm => of_all || norms,
        Kind::TokenEmbedding
        | Kind::PositionEmbedding
        | Kind::TokenTypeEmbedding
        | Kind::EmbeddingProjection
        | Kind::AttentionIn
        | Kind::AttentionOut
        | Kind::FeedForwardUp
        | Kind::FeedForwardDown
        | Kind::LmHead => of_all,
    }
}
