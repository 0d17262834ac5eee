//! The stack machine that pickles are programs of.
//!
//! Owns: the opcodes that tensors and plain values need, and what they may use of memory. Never: what the values mean
//! (`state_dict`), where storages lie (`zipped`, `legacy`).

use std::collections::HashMap;

use super::numbers::Numbers;
use super::value::{Callable, Node, Storage, Tensor, Value, WOULD_CALL};

/// The first opcode of every pickle that is read.
pub(super) const PROTO: u8 = 0x80;
/// The newest form of pickles.
const NEWEST: u8 = 5;
/// A tensor takes some forty opcodes. Each makes one value at most, and so bounds what all of them take.
const MOST_OPCODES: usize = 2 << 20;
/// Names and opcodes of as many tensors need less.
const MOST_BYTES: usize = 64 << 20;
/// PyTorch has no tensors of more dimensions than 64; models have none of more than 4.
const MOST_DIMENSIONS: usize = 8;

/// A pickle that has run.
#[derive(Debug)]
pub(super) struct Pickle<'a> {
    /// What it made.
    pub value: Value<'a>,
    /// The containers among it.
    pub nodes: Vec<Node<'a>>,
    /// Its length.
    pub end: usize,
}

/// Runs the pickle at the beginning of `bytes`.
pub(super) fn run(bytes: &[u8]) -> Result<Pickle<'_>, String> {
    let mut machine = Machine {
        bytes: &bytes[..bytes.len().min(MOST_BYTES)],
        at: 0,
        budget: MOST_OPCODES,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        nodes: Vec::new(),
    };
    let value = machine.run().map_err(|what| {
        if what.starts_with(WOULD_CALL) {
            return what;
        }
        format!("is no pickle that can be read: {what} (at byte {})", machine.at)
    })?;
    Ok(Pickle { value, nodes: machine.nodes, end: machine.at })
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    budget: usize,
    stack: Vec<Value<'a>>,
    /// How high the stack was at each open mark.
    marks: Vec<usize>,
    memo: HashMap<u32, Value<'a>>,
    nodes: Vec<Node<'a>>,
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Result<Value<'a>, String> {
        loop {
            self.spend(1)?;
            match self.byte()? {
                PROTO => {
                    let form = self.byte()?;
                    if !(2..=NEWEST).contains(&form) {
                        return Err(format!("it is of protocol {form}, and 2 to {NEWEST} are read"));
                    }
                }
                b'.' => return self.pop(),
                opcode => self.step(opcode)?,
            }
        }
    }

    fn step(&mut self, opcode: u8) -> Result<(), String> {
        match opcode {
            b'(' => self.marks.push(self.stack.len()),
            b'0' => _ = self.pop()?,
            b'1' => _ = self.above_mark()?,
            // FRAME: only tells how to read ahead.
            0x95 => _ = self.number(8)?,
            b'q' | b'r' | 0x94 => self.remember(opcode)?,
            b'h' | b'j' => {
                let index = self.number(if opcode == b'h' { 1 } else { 4 })?;
                let known = u32::try_from(index).ok().and_then(|index| self.memo.get(&index).copied());
                self.stack.push(known.ok_or("it asks for a value that was not kept")?);
            }
            b'a' | b'e' | b's' | b'u' => self.fill(opcode)?,
            b'c' | 0x93 => self.name_callable(opcode)?,
            b'R' | 0x81 => self.call()?,
            b'b' => self.build()?,
            b'Q' => self.storage()?,
            b')' | b']' | b'}' | b't' | 0x85..=0x87 => self.container(opcode)?,
            _ => {
                let value = self.plain(opcode)?;
                self.stack.push(value);
            }
        }
        Ok(())
    }

    /// A number, a text or the like.
    fn plain(&mut self, opcode: u8) -> Result<Value<'a>, String> {
        Ok(match opcode {
            b'N' => Value::None,
            0x88 => Value::Bool(true),
            0x89 => Value::Bool(false),
            b'J' => Value::Int(i64::from(self.number(4)? as u32 as i32)),
            b'K' => Value::Int(self.number(1)? as i64),
            b'M' => Value::Int(self.number(2)? as i64),
            0x8a => self.long(1)?,
            0x8b => self.long(4)?,
            b'G' => Value::Float(f64::from_bits(self.number(8)?.swap_bytes())),
            // Python 2 kept its texts as bytes, which PyTorch reads as UTF-8.
            0x8c | b'U' => Value::Text(self.text(1)?),
            b'X' | b'T' => Value::Text(self.text(4)?),
            0x8d => Value::Text(self.text(8)?),
            b'C' => Value::Bytes(self.counted(1)?),
            b'B' => Value::Bytes(self.counted(4)?),
            0x8e => Value::Bytes(self.counted(8)?),
            _ => return Err(format!("opcode 0x{opcode:02x} has no part in saving tensors")),
        })
    }

    fn container(&mut self, opcode: u8) -> Result<(), String> {
        let node = match opcode {
            b')' => Node::Tuple(Vec::new()),
            b']' => Node::List(Vec::new()),
            b'}' => Node::Dict(Vec::new()),
            b't' => Node::Tuple(self.above_mark()?),
            _ => {
                let low = self.low_end(usize::from(opcode - 0x84))?;
                Node::Tuple(self.stack.split_off(low))
            }
        };
        self.push_node(node);
        Ok(())
    }

    /// BINPUT, `LONG_BINPUT`, MEMOIZE.
    fn remember(&mut self, opcode: u8) -> Result<(), String> {
        let index = match opcode {
            b'q' => self.number(1)?,
            b'r' => self.number(4)?,
            _ => self.memo.len() as u64,
        };
        let value = *self.stack.last().ok_or(EMPTY)?;
        self.memo.insert(index as u32, value);
        Ok(())
    }

    /// APPEND, APPENDS, SETITEM, SETITEMS.
    fn fill(&mut self, opcode: u8) -> Result<(), String> {
        let items = match opcode {
            b'a' => vec![self.pop()?],
            b's' => {
                let low = self.low_end(2)?;
                self.stack.split_off(low)
            }
            _ => self.above_mark()?,
        };
        let into = self.stack.last().copied();
        match (self.node_mut(into), opcode) {
            (Some(Node::List(list)), b'a' | b'e') => list.extend(items),
            (Some(Node::Dict(dict)), b's' | b'u') if items.len() % 2 == 0 => {
                dict.extend(items.as_chunks().0.iter().map(|&[key, value]| (key, value)));
            }
            _ => return Err("it adds items to what takes none".into()),
        }
        Ok(())
    }

    /// GLOBAL, `STACK_GLOBAL`.
    fn name_callable(&mut self, opcode: u8) -> Result<(), String> {
        let (module, name) = if opcode == b'c' {
            (self.line()?, self.line()?)
        } else {
            let (name, module) = (self.pop()?, self.pop()?);
            let (Value::Text(module), Value::Text(name)) = (module, name) else {
                return Err("it names a callable by something other than text".into());
            };
            (module, name)
        };
        let callable = Callable::of(module, name)?;
        self.stack.push(Value::Callable(callable));
        Ok(())
    }

    /// REDUCE, NEWOBJ.
    fn call(&mut self) -> Result<(), String> {
        let (arguments, callable) = (self.pop()?, self.pop()?);
        let (Some(Node::Tuple(arguments)), Value::Callable(callable)) = (self.node(arguments), callable)
        else {
            return Err("it calls what is no callable".into());
        };
        let node = match (callable, &arguments[..]) {
            (Callable::OrderedDict, []) => Node::Dict(Vec::new()),
            (Callable::Namespace, []) => Node::Namespace(Vec::new()),
            (Callable::Device, [Value::Text(name)]) => Node::Device(name, None),
            (Callable::Device, [Value::Text(name), Value::Int(number)]) => Node::Device(name, Some(*number)),
            (Callable::RebuildTensor, [storage, offset, shape, strides, _, _, metadata @ ..]) => {
                self.tensor(*storage, *offset, *shape, *strides, None, metadata)?
            }
            (
                Callable::RebuildTypedTensor,
                [
                    storage,
                    offset,
                    shape,
                    strides,
                    _,
                    _,
                    Value::Callable(Callable::Dtype(numbers)),
                    metadata @ ..,
                ],
            ) => self.tensor(*storage, *offset, *shape, *strides, Some(*numbers), metadata)?,
            (Callable::RebuildParameter, [tensor, _, _])
                if matches!(self.node(*tensor), Some(Node::Tensor(_))) =>
            {
                self.stack.push(*tensor);
                return Ok(());
            }
            _ => return Err(format!("it gives {callable:?} other arguments than PyTorch does")),
        };
        self.push_node(node);
        Ok(())
    }

    fn tensor(
        &self,
        storage: Value<'a>,
        offset: Value<'a>,
        shape: Value<'a>,
        strides: Value<'a>,
        numbers: Option<Numbers>,
        metadata: &[Value<'a>],
    ) -> Result<Node<'a>, String> {
        let bad = || "it gives a tensor other arguments than PyTorch does".to_owned();
        let Some(&Node::Storage(kept)) = self.node(storage) else { return Err(bad()) };
        // What else is noted of a tensor can change its numbers: that they are to be negated.
        let plain = match metadata {
            [] | [Value::None] => true,
            [noted] => matches!(self.node(*noted), Some(Node::Dict(items)) if items.is_empty()),
            _ => false,
        };
        let (Value::Node(storage), true) = (storage, plain) else { return Err(bad()) };
        let numbers = numbers.or(kept.numbers).ok_or_else(bad)?;
        let (shape, strides) = (self.sizes(shape)?, self.sizes(strides)?);
        Ok(Node::Tensor(Tensor { storage, numbers, offset: size(offset)?, shape, strides }))
    }

    fn sizes(&self, value: Value<'a>) -> Result<Vec<usize>, String> {
        match self.node(value) {
            Some(Node::Tuple(sizes)) if sizes.len() <= MOST_DIMENSIONS => {
                sizes.iter().map(|value| size(*value)).collect()
            }
            _ => Err(format!("a tensor's sizes are no tuple of at most {MOST_DIMENSIONS} numbers")),
        }
    }

    /// BUILD: attributes of what was made.
    fn build(&mut self) -> Result<(), String> {
        let attributes = self.pop()?;
        let object = self.stack.last().copied();
        match object.and_then(|object| self.node(object)) {
            // The version numbers of a state dict's modules.
            Some(Node::Dict(_)) => Ok(()),
            Some(Node::Namespace(_)) => {
                let Some(Node::Dict(items)) = self.node(attributes) else {
                    return Err("it sets attributes that are no dict".into());
                };
                let items = items.clone();
                self.spend(items.len())?;
                if let Some(Node::Namespace(all)) = self.node_mut(object) {
                    all.extend(items);
                }
                Ok(())
            }
            _ => Err("it sets attributes of what has none".into()),
        }
    }

    /// BINPERSID: PyTorch's reference to a storage, which lies outside the pickle.
    fn storage(&mut self) -> Result<(), String> {
        let reference = self.pop()?;
        let bad = || "it refers to something else than a storage of numbers".to_owned();
        let Some(Node::Tuple(parts)) = self.node(reference) else { return Err(bad()) };
        // The device it was on does not matter. In old files, a view of another storage may follow.
        let (kind, key, count) = match parts[..] {
            [Value::Text("storage"), Value::Callable(kind), Value::Text(key), Value::Text(_), count]
            | [
                Value::Text("storage"),
                Value::Callable(kind),
                Value::Text(key),
                Value::Text(_),
                count,
                Value::None,
            ] => (kind, key, size(count)?),
            _ => return Err(bad()),
        };
        let numbers = match kind {
            Callable::Storage(numbers) => Some(numbers),
            Callable::UntypedStorage => None,
            _ => return Err(bad()),
        };
        self.push_node(Node::Storage(Storage { key, numbers, count }));
        Ok(())
    }

    fn spend(&mut self, opcodes: usize) -> Result<(), String> {
        let left = self.budget.checked_sub(opcodes);
        self.budget = left.ok_or_else(|| format!("it has more than {MOST_OPCODES} opcodes"))?;
        Ok(())
    }

    fn push_node(&mut self, node: Node<'a>) {
        self.stack.push(Value::Node(self.nodes.len()));
        self.nodes.push(node);
    }

    fn node(&self, value: Value<'a>) -> Option<&Node<'a>> {
        if let Value::Node(index) = value { self.nodes.get(index) } else { None }
    }

    fn node_mut(&mut self, value: Option<Value<'a>>) -> Option<&mut Node<'a>> {
        if let Some(Value::Node(index)) = value { self.nodes.get_mut(index) } else { None }
    }

    /// Takes the uppermost value, which is never one below a mark.
    fn pop(&mut self) -> Result<Value<'a>, String> {
        self.low_end(1)?;
        self.stack.pop().ok_or_else(|| EMPTY.into())
    }

    /// Where the uppermost `count` values begin.
    fn low_end(&self, count: usize) -> Result<usize, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let low = self.stack.len().checked_sub(count);
        low.filter(|low| *low >= floor).ok_or_else(|| EMPTY.into())
    }

    /// Takes everything above the last mark, and the mark.
    fn above_mark(&mut self) -> Result<Vec<Value<'a>>, String> {
        let mark = self.marks.pop().ok_or("it closes what it has not begun")?;
        Ok(self.stack.split_off(mark))
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let bytes = self.at.checked_add(count).and_then(|end| self.bytes.get(self.at..end));
        let bytes = bytes.ok_or("it ends too early")?;
        self.at += count;
        Ok(bytes)
    }

    /// A little-endian number of some bytes.
    fn number(&mut self, bytes: usize) -> Result<u64, String> {
        Ok(self.take(bytes)?.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    /// Bytes behind a number that counts them, itself of `width` bytes.
    fn counted(&mut self, width: usize) -> Result<&'a [u8], String> {
        let count = usize::try_from(self.number(width)?).map_err(|_| "it ends too early")?;
        self.take(count)
    }

    fn text(&mut self, width: usize) -> Result<&'a str, String> {
        str::from_utf8(self.counted(width)?).map_err(|_| "a text is not UTF-8".into())
    }

    /// A signed integer of any length.
    fn long(&mut self, width: usize) -> Result<Value<'a>, String> {
        let bytes = self.counted(width)?;
        if bytes.len() > 8 {
            return Ok(Value::Long(bytes));
        }
        let sign = if bytes.last().is_some_and(|byte| *byte >= 0x80) { 0xff } else { 0 };
        let mut all = [sign; 8];
        all[..bytes.len()].copy_from_slice(bytes);
        Ok(Value::Int(i64::from_le_bytes(all)))
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|byte| *byte == b'\n').ok_or("it ends too early")?;
        let line = self.take(end + 1)?;
        str::from_utf8(&line[..end]).map_err(|_| "a name is not UTF-8".into())
    }
}

const EMPTY: &str = "it takes more values than there are";

/// A number that counts or places something.
fn size(value: Value<'_>) -> Result<usize, String> {
    match value {
        Value::Int(number) => {
            usize::try_from(number).map_err(|_| format!("a size of {number} is not possible"))
        }
        _ => Err("a size is no number".into()),
    }
}
