//! What a finished pickle holds: a dictionary of tensors, or settings.
//!
//! Owns: where in it the state dict is, each tensor's place in the file. Never: opcodes, files.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::Saved;
use super::machine::Pickle;
use super::value::{Node, Storage, Tensor, Value};
use crate::tensors::place::Place;

/// Where training programs keep the state dict among other things.
const WRAPPERS: [&str; 3] = ["state_dict", "model_state_dict", "model"];
/// Settings are a few dozen. Shared lists in lists could otherwise become as many as one likes.
const MOST_SETTINGS: usize = 100_000;
/// Settings in settings.
const DEEPEST: usize = 32;

type Items<'a> = [(Value<'a>, Value<'a>)];

impl<'a> Pickle<'a> {
    /// The container that a value is.
    pub fn node(&self, value: Value<'a>) -> Option<&Node<'a>> {
        if let Value::Node(index) = value { self.nodes.get(index) } else { None }
    }

    /// All storages it refers to, some of them more than once.
    pub fn storages(&self) -> impl Iterator<Item = &Storage<'a>> {
        self.nodes
            .iter()
            .filter_map(|node| if let Node::Storage(storage) = node { Some(storage) } else { None })
    }

    fn dict(&self, value: Value<'a>) -> Option<&Items<'a>> {
        if let Some(Node::Dict(items)) = self.node(value) { Some(items) } else { None }
    }

    /// The settings that it holds.
    pub fn plain_values(&self) -> Result<BTreeMap<String, Json>, String> {
        let Some(Node::Namespace(items) | Node::Dict(items)) = self.node(self.value) else {
            return Err("holds no settings: neither an argparse.Namespace nor a dict".into());
        };
        let mut budget = MOST_SETTINGS;
        let object = self.json_object(items, DEEPEST, &mut budget)?;
        Ok(object.into_iter().collect())
    }

    fn json_object(
        &self,
        items: &Items<'a>,
        depth: usize,
        budget: &mut usize,
    ) -> Result<serde_json::Map<String, Json>, String> {
        let pair = |&(key, value): &(Value<'a>, Value<'a>)| match key {
            Value::Text(key) => Ok((key.to_owned(), self.json(value, depth, budget)?)),
            _ => Err("a setting's name is no text".into()),
        };
        items.iter().map(pair).collect()
    }

    fn json(&self, value: Value<'a>, depth: usize, budget: &mut usize) -> Result<Json, String> {
        let less = depth.checked_sub(1).zip(budget.checked_sub(1));
        let Some((depth, left)) = less else { return Err("its settings are too many or too deep".into()) };
        *budget = left;
        Ok(match value {
            Value::None => Json::Null,
            Value::Bool(value) => value.into(),
            Value::Int(value) => value.into(),
            Value::Float(value) if value.is_finite() => value.into(),
            Value::Float(value) => value.to_string().into(),
            Value::Text(value) => value.into(),
            Value::Long(_) | Value::Bytes(_) | Value::Callable(_) => {
                return Err("a setting is neither number nor text".into());
            }
            Value::Node(_) => match self.node(value) {
                Some(Node::Tuple(items) | Node::List(items)) => {
                    let items = items.iter().map(|item| self.json(*item, depth, budget));
                    Json::Array(items.collect::<Result<_, _>>()?)
                }
                Some(Node::Dict(items) | Node::Namespace(items)) => {
                    Json::Object(self.json_object(items, depth, budget)?)
                }
                Some(Node::Device(name, None)) => (*name).into(),
                Some(Node::Device(name, Some(number))) => format!("{name}:{number}").into(),
                _ => return Err("a setting is neither number nor text but a tensor".into()),
            },
        })
    }
}

/// Each tensor of the state dict, and where it lies.
pub(super) fn places(saved: &Saved<'_>) -> Result<Vec<(String, Place)>, String> {
    let pickle = &saved.pickle;
    let items = pickle.dict(pickle.value).ok_or("holds no dictionary of tensors")?;
    let wrapped = WRAPPERS.iter().find_map(|wrapper| {
        let value = items.iter().find(|(key, _)| *key == Value::Text(wrapper));
        value.and_then(|(_, value)| pickle.dict(*value))
    });
    let items = wrapped.unwrap_or(items);
    let mut places = BTreeMap::new();
    for (key, value) in items {
        let &Value::Text(name) = key else { return Err("a tensor's name is no text".into()) };
        let tensor = match pickle.node(*value) {
            Some(Node::Tensor(tensor)) => tensor,
            Some(Node::Dict(inner)) if !inner.is_empty() => {
                return Err(format!("`{name}` is no tensor but a dictionary; {}", keys_of(items)));
            }
            // Counters, names and the like are no weights.
            _ => continue,
        };
        let place = place(saved, tensor).map_err(|what| format!("`{name}`: {what}"))?;
        if places.insert(name.to_owned(), place).is_some() {
            return Err(format!("`{name}` is there twice"));
        }
    }
    if places.is_empty() {
        return Err(format!("holds no tensors; {}", keys_of(items)));
    }
    Ok(places.into_iter().collect())
}

fn place(saved: &Saved<'_>, tensor: &Tensor) -> Result<Place, String> {
    let Some(Node::Storage(storage)) = saved.pickle.nodes.get(tensor.storage) else {
        return Err("has no storage".into());
    };
    let bytes = saved.storages.get(storage.key).cloned().unwrap_or_default();
    let expected = storage.count.checked_mul(storage.numbers.map_or(1, |numbers| numbers.size));
    if expected != Some(bytes.len()) {
        let (count, found) = (storage.count, bytes.len());
        return Err(format!(
            "its storage {:?} should have {count} numbers and has {found} bytes",
            storage.key
        ));
    }
    let (shape, strides) = (tensor.shape.clone(), tensor.strides.clone());
    Place::view(tensor.numbers.dtype(), tensor.numbers.size, bytes, tensor.offset, shape, strides)
}

/// The first few keys of a dictionary, for people.
fn keys_of(items: &Items<'_>) -> String {
    const MOST: usize = 8;
    if items.is_empty() {
        return "it has no keys".into();
    }
    let shown = |(key, _): &(Value<'_>, Value<'_>)| match key {
        Value::Text(key) => format!("{:?}", key.chars().take(80).collect::<String>()),
        _ => "one that is no text".into(),
    };
    let names: Vec<_> = items.iter().take(MOST).map(shown).collect();
    let more = items.len().saturating_sub(MOST);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("its keys are {}{more}", names.join(", "))
}
