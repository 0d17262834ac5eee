//! The form of a family's table of names, and looking a parameter up in it.
//!
//! Owns: how a name of ours becomes theirs. Never: the tables (one file a family), files.

use crate::config::Arch;
use crate::interop::{bert, distilbert, electra, gpt2, modernbert, roberta, tutorial};

/// How a family names what this program names, without the endings `.weight` and `.bias`, which both have.
pub(super) struct Names {
    /// Stands before the names of the trunk, where a head was saved with it.
    pub(super) prefix: &'static str,
    /// Stands before a block's number.
    pub(super) blocks: &'static str,
    /// Inside a block. Where one of ours is several of theirs, they are its parts from above to below. A part with `{n}` has the
    /// block's number there; behind one that ends in `_` the ending follows without a point.
    pub(super) in_block: &'static [(&'static str, &'static [&'static str])],
    /// The rest of the trunk.
    pub(super) trunk: &'static [(&'static str, &'static str)],
    /// What has never the prefix.
    pub(super) heads: &'static [(&'static str, &'static str)],
    /// Those of ours, inside blocks, whose matrices lie there with inputs as rows.
    pub(super) transposed: &'static [&'static str],
    /// Endings of what is no parameter, or the same one again.
    pub(super) copies: &'static [&'static str],
    /// The matrix of the LM head, which must be the token embedding where it is stored at all.
    pub(super) decoder: &'static str,
}

/// Where a parameter lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The tensors that are its parts, from above to below, all of one height.
    pub tensors: Vec<String>,
    /// Whether rows and columns are exchanged.
    pub transposed: bool,
}

/// The table of a family.
pub(super) fn of(arch: Arch) -> &'static Names {
    match arch {
        Arch::Naacl2019 => &tutorial::NAMES,
        Arch::Gpt2 => &gpt2::NAMES,
        Arch::Bert => &bert::NAMES,
        Arch::Roberta => &roberta::NAMES,
        Arch::Distilbert => &distilbert::NAMES,
        Arch::Electra => &electra::NAMES,
        Arch::Modernbert => &modernbert::NAMES,
    }
}

impl Names {
    /// Where the parameter of a name of ours lies in a file whose trunk has this prefix; `None` where the family has no
    /// such parameter.
    pub(super) fn source(&self, prefix: &str, param: &str) -> Option<Source> {
        let (stem, ending) = param.rsplit_once('.')?;
        let whole = |name: String| Source { tensors: vec![format!("{name}.{ending}")], transposed: false };
        let of = |table: &[(&str, &'static str)]| {
            table.iter().find(|(ours, _)| *ours == stem).map(|(_, theirs)| *theirs)
        };
        if let Some(theirs) = of(self.heads) {
            return Some(whole(theirs.to_owned()));
        }
        if let Some(theirs) = of(self.trunk) {
            return Some(whole(format!("{prefix}{theirs}")));
        }
        let (block, inside) = stem.strip_prefix("transformer.layers.")?.split_once('.')?;
        let (_, parts) = self.in_block.iter().find(|(ours, _)| *ours == inside)?;
        let name = |part: &&str| {
            if !part.contains("{n}") {
                return format!("{prefix}{}.{block}.{part}.{ending}", self.blocks);
            }
            let point = if part.ends_with('_') { "" } else { "." };
            format!("{prefix}{}{point}{ending}", part.replace("{n}", block))
        };
        let transposed = ending == "weight" && self.transposed.contains(&inside);
        Some(Source { tensors: parts.iter().map(name).collect(), transposed })
    }
}
