//! The ranks of a run: the groups in which its gradients are added, and what all ranks have to agree on.
//!
//! Owns: agreements, and whose turn it is. Never: gradients (the engine adds them), files, or how ranks find each other.
//!
//! Every rank runs the same code on the same settings. What could differ (a signal, a clock, a disk, a file that was read) is
//! asked of all, or of rank 0 alone, before anything depends on it, so that no rank waits for one that went another way.

use std::collections::BTreeMap;
use std::ops::Range;

use headstart_engine::Collective;
use headstart_engine::collective::tree;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// This process among the ranks of a run, and the groups its gradients are added in.
#[derive(Clone, Debug)]
pub struct Ranks {
    collective: Collective,
    groups: usize,
}

impl Default for Ranks {
    fn default() -> Self {
        Self { collective: Collective::alone(), groups: 1 }
    }
}

impl Ranks {
    /// The ranks of `collective` for a run with so many groups; none given: one to a rank.
    ///
    /// # Errors
    /// [`Error::Config`] when ranks or groups are no power of two, or ranks do not divide groups.
    pub fn new(collective: &Collective, groups: Option<usize>) -> Result<Self> {
        let ranks = collective.world_size();
        let groups = groups.unwrap_or(ranks);
        let refuse = |key: &str, what: String, fix: String| Err(Error::Config { key: key.into(), what, fix });
        if !ranks.is_power_of_two() {
            let (less, more) = (ranks.next_power_of_two() / 2, ranks.next_power_of_two());
            return refuse(
                "world_size",
                format!("{ranks} ranks: gradients are added in a binary tree, which takes a power of two"),
                format!("start {less} ranks, or {more}"),
            );
        }
        if !groups.is_power_of_two() {
            return refuse(
                "reduction_groups",
                format!("{groups} is no power of two"),
                format!("use {}", groups.max(1).next_power_of_two()),
            );
        }
        if !groups.is_multiple_of(ranks) {
            let started = match groups {
                1 => "continue it as one process".to_owned(),
                _ => format!("start {groups} ranks, or {}", groups / 2),
            };
            return refuse(
                "world_size",
                format!(
                    "{ranks} ranks cannot share the {groups} reduction_groups of this run, so it would go on with other \
                     rounding"
                ),
                format!("{started}; or allow that with --allow_other_groups"),
            );
        }
        Ok(Self { collective: collective.clone(), groups })
    }

    /// The ranks of work in which no gradients are added: any number of them.
    pub fn without_groups(collective: &Collective) -> Self {
        Self { collective: collective.clone(), groups: 1 }
    }

    /// The way to the others.
    pub fn collective(&self) -> &Collective {
        &self.collective
    }

    /// Whether this rank alone writes and speaks.
    pub fn leads(&self) -> bool {
        self.collective.leads()
    }

    /// Groups in all.
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// The groups of this rank.
    pub fn own_groups(&self) -> Range<usize> {
        tree::groups_of(self.collective.rank(), self.collective.world_size(), self.groups)
    }

    /// The part of `count` things that this rank sees to.
    pub fn share_of(&self, count: usize) -> Range<usize> {
        tree::group(count, self.collective.world_size(), self.collective.rank())
    }

    /// Of each answer, whether any rank gave it.
    ///
    /// # Errors
    /// [`Error::Engine`] with the rank that is lost.
    pub fn any<const N: usize>(&self, mine: [bool; N]) -> Result<[bool; N]> {
        if self.collective.is_alone() {
            return Ok(mine);
        }
        let all = self.collective.gather_equal(&mine.map(u8::from))?;
        Ok(std::array::from_fn(|i| all.iter().any(|answers| answers[i] != 0)))
    }

    /// What rank 0's `work` gives; the others do none.
    ///
    /// # Errors
    /// Those of `work`; [`Error::Engine`] with the rank that is lost.
    pub fn of_leader<T: Serialize + DeserializeOwned>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.collective.is_alone() {
            return work();
        }
        let garbled = |e: serde_json::Error| Error::Missing {
            what: format!("rank {} does not understand rank 0: {e}", self.collective.rank()),
            fix: "start the same program on all ranks".into(),
        };
        if self.leads() {
            let value = work()?;
            self.collective.broadcast(&serde_json::to_vec(&value).map_err(garbled)?)?;
            return Ok(value);
        }
        serde_json::from_slice(&self.collective.broadcast(&[])?).map_err(garbled)
    }

    /// Does `work` on rank 0, then on all others: what is made once on a disk they share (downloads, caches) is found there.
    ///
    /// # Errors
    /// Those of `work`; [`Error::Engine`] with the rank that is lost.
    pub fn leader_first<T, E: From<Error>>(&self, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        if self.leads() {
            let value = work()?;
            self.wait_for_all()?;
            return Ok(value);
        }
        self.wait_for_all()?;
        work()
    }

    /// Returns once all ranks have come here.
    ///
    /// # Errors
    /// [`Error::Engine`] with the rank that is lost.
    pub fn wait_for_all(&self) -> Result<()> {
        self.collective.gather_equal(&[0]).map(|_| ()).map_err(Error::Engine)
    }

    /// Compares what has to be the same everywhere: values that people can read, by name.
    ///
    /// # Errors
    /// [`Error::Config`] on every rank, with the name, the first rank that differs from rank 0, and both values.
    pub fn agree(&self, mine: &BTreeMap<String, String>) -> Result<()> {
        if self.collective.is_alone() {
            return Ok(());
        }
        let all = self.collective.gather(&serde_json::to_vec(mine).unwrap_or_default())?;
        let read =
            |values: &Vec<u8>| serde_json::from_slice::<BTreeMap<String, String>>(values).unwrap_or_default();
        let all: Vec<BTreeMap<String, String>> = all.iter().map(read).collect();
        for (rank, theirs) in all.iter().enumerate() {
            let names = all[0].keys().chain(theirs.keys());
            if let Some(name) = names.into_iter().find(|name| theirs.get(*name) != all[0].get(*name)) {
                let value = |of: &BTreeMap<String, String>| of.get(name).map_or("none".into(), Clone::clone);
                return Err(Error::Config {
                    key: name.clone(),
                    what: format!("rank 0 has {}, rank {rank} has {}", value(&all[0]), value(theirs)),
                    fix: "start all ranks with the same program, settings and files".into(),
                });
            }
        }
        Ok(())
    }

    /// Gives every rank rank 0's values.
    ///
    /// # Errors
    /// [`Error::Engine`] with the rank that is lost.
    pub fn broadcast(&self, values: &mut [f32]) -> Result<()> {
        Ok(self.collective.broadcast_equal(bytemuck::cast_slice_mut(values))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_agrees_with_itself_and_odd_numbers_are_refused() {
        let alone = Collective::alone();
        let ranks = Ranks::new(&alone, None).unwrap();
        assert_eq!((ranks.groups(), ranks.own_groups(), ranks.share_of(7)), (1, 0..1, 0..7));
        assert_eq!(ranks.any([true, false]).unwrap(), [true, false]);
        assert_eq!(ranks.of_leader(|| Ok(3)).unwrap(), 3);
        ranks.agree(&BTreeMap::new()).unwrap();
        assert_eq!(Ranks::new(&alone, Some(4)).unwrap().own_groups(), 0..4);
        let error = Ranks::new(&alone, Some(6)).unwrap_err();
        assert!(error.is_usage() && error.to_string().contains("use 8"), "{error}");
    }
}
