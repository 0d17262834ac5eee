//! What a fine-tuning method trains: functions of a parameter's kind, role and layer.
//!
//! Owns: which parameters a method ever trains. Never: parameters, steps.

use crate::config::Method;
use crate::params::{Kind, Param, Role};

/// Whether a method ever trains a parameter; `norms` says that layer norms train whatever the method.
pub fn trains(method: Method, norms: bool, param: &Param) -> bool {
    // A head that is fitted is not trained.
    if param.kind == Kind::Head && method.fits_head() {
        return false;
    }
    let of_all = matches!(method, Method::Full | Method::Contrastive)
        || (method == Method::Bitfit && param.role == Role::Bias);
    match param.kind {
        Kind::Head => true,
        Kind::TokenOffset => method != Method::Features,
        Kind::Adapter => of_all || method == Method::Adapters,
        Kind::Lora => of_all || method == Method::Lora,
        Kind::Ia3 => of_all || method == Method::Ia3,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Arch, HeadConfig, HeadPooling, Ia3Config, LoraConfig, ModelConfig, Problem};
    use crate::model::Model;

    #[test]
    fn each_method_trains_its_own_parameters_and_the_head() {
        let head = HeadConfig {
            num_classes: 2,
            pooling: HeadPooling::Pooler,
            problem: Problem::SingleLabel,
            max_length: None,
            truncation: None,
            dropout: None,
        };
        let config = ModelConfig {
            arch: Arch::Bert,
            vocab_size: 9,
            embed_dim: 4,
            num_heads: 2,
            num_layers: 2,
            adapters_dim: Some(2),
            lora: Some(LoraConfig { rank: 2, ..LoraConfig::default() }),
            ia3: Some(Ia3Config::default()),
            head: Some(head),
            ..ModelConfig::default()
        };
        let model = Model::new(&config).unwrap();
        for param in model.table().params() {
            let is = |part: &str| param.name.contains(part);
            let of = |method| trains(method, false, param);
            assert!(of(Method::Full));
            assert_eq!(of(Method::Head), is("classification_head"), "{}", param.name);
            assert_eq!(of(Method::Adapters), is("classification_head") || is("adapter"), "{}", param.name);
            assert_eq!(of(Method::Lora), is("classification_head") || is("lora_"), "{}", param.name);
            assert_eq!(of(Method::Ia3), is("classification_head") || is(".ia3."), "{}", param.name);
            assert_eq!(of(Method::Bitfit), is("classification_head") || is("bias"), "{}", param.name);
            assert_eq!(
                trains(Method::Lora, true, param),
                of(Method::Lora) || param.kind == Kind::Norm,
                "{}",
                param.name
            );
        }
    }
}
