//! Damage: what accidents, other programs and enemies do to a file.
//!
//! Owns: changes of bytes and of JSON values, drawn from a seed. Never: knows what reads the result.

use serde_json::{Map, Value, json};

use crate::support::Draws;

/// No input is longer: what reads it is to be tried often.
const LONGEST: usize = 1 << 17;

/// Numbers at which sizes, offsets and counts go wrong.
const NUMBERS: [u64; 14] = [
    0,
    1,
    2,
    0x7f,
    0xff,
    0xffff,
    1 << 16,
    0x7fff_ffff,
    0xffff_ffff,
    1 << 32,
    1 << 40,
    i64::MAX as u64,
    u64::MAX - 7,
    u64::MAX,
];

/// The same for numbers that are written out.
const WORDS: [&str; 16] = [
    "0",
    "-1",
    "1",
    "256",
    "65536",
    "2147483648",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "1e308",
    "1e-320",
    "1e999",
    "-0.0",
    "NaN",
    "null",
];

/// What has a meaning in one format or another.
const TOKENS: [&[u8]; 28] = [
    b"\"",
    b"\"\"",
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b";",
    b"\t",
    b"\n",
    b"\r\n",
    b"\r",
    b"\0",
    b"\xEF\xBB\xBF",
    b"\xFF\xFE",
    b"\xC3\x28",
    b"\xED\xA0\x80",
    b"../",
    b"/",
    b"__label__",
    b"PK\x01\x02",
    b"(",
    b"R",
    b".",
    b"\xE2\x80\xAE",
];

/// One of `seeds`, damaged.
pub fn damaged(draws: &mut Draws, seeds: &[Vec<u8>]) -> Vec<u8> {
    let seed = &seeds[draws.below(seeds.len())];
    if draws.below(2) == 0
        && let Ok(mut value) = serde_json::from_slice::<Value>(seed)
        && (value.is_object() || value.is_array())
    {
        for _ in 0..=draws.below(3) {
            change_json(draws, &mut value);
        }
        let mut text = value.to_string().into_bytes();
        if draws.below(8) == 0 {
            change_bytes(draws, &mut text, seeds);
        }
        if text.len() <= LONGEST {
            return text;
        }
    }
    let mut bytes = seed.clone();
    for _ in 0..=draws.below(4) {
        change_bytes(draws, &mut bytes, seeds);
    }
    bytes.truncate(LONGEST);
    bytes
}

fn change_bytes(draws: &mut Draws, bytes: &mut Vec<u8>, seeds: &[Vec<u8>]) {
    if bytes.is_empty() {
        bytes.extend(TOKENS[draws.below(TOKENS.len())]);
        return;
    }
    // Mostly near the beginning, where headers are.
    let near = if draws.below(3) == 0 { bytes.len() } else { bytes.len().min(600) };
    let at = draws.below(near);
    match draws.below(12) {
        0 => bytes[at] ^= 1 << draws.below(8),
        1 => bytes[at] = draws.below(256) as u8,
        2 => bytes.truncate(at),
        3 => {
            bytes.drain(at..(at + 1 + draws.below(16)).min(bytes.len()));
        }
        4 => put(bytes, at, TOKENS[draws.below(TOKENS.len())]),
        5 => {
            let token = TOKENS[draws.below(TOKENS.len())].repeat(1 << draws.below(14));
            put(bytes, at, &token);
        }
        6 => {
            // A part of another file, or of this one.
            let other = &seeds[draws.below(seeds.len())];
            if !other.is_empty() {
                let from = draws.below(other.len());
                let part = other[from..(from + 1 + draws.below(200)).min(other.len())].to_vec();
                put(bytes, at, &part);
            }
        }
        7 | 8 => {
            let number =
                NUMBERS[draws.below(NUMBERS.len())].wrapping_add(draws.below(3) as u64).wrapping_sub(1);
            let width = 1 << draws.below(4);
            let little = number.to_le_bytes();
            let mut part = little[..width].to_vec();
            if draws.below(4) == 0 {
                part.reverse();
            }
            let end = (at + width).min(bytes.len());
            bytes[at..end].copy_from_slice(&part[..end - at]);
        }
        9 | 10 => change_number(draws, bytes, at),
        _ => {
            let to = draws.below(bytes.len());
            let (low, high) = (at.min(to), at.max(to).min(at.min(to) + 64));
            let part = bytes[low..high].repeat(1 + draws.below(50));
            put(bytes, at, &part);
        }
    }
}

fn put(bytes: &mut Vec<u8>, at: usize, part: &[u8]) {
    bytes.splice(at..at, part.iter().copied());
}

/// Writes another number in place of the next one that is written out.
fn change_number(draws: &mut Draws, bytes: &mut Vec<u8>, at: usize) {
    let Some(start) = bytes[at..].iter().position(u8::is_ascii_digit).map(|start| at + start) else { return };
    let length = bytes[start..].iter().position(|b| !b.is_ascii_digit()).unwrap_or(bytes.len() - start);
    let word = WORDS[draws.below(WORDS.len())].bytes();
    bytes.splice(start..start + length, word);
}

/// Changes one value, more often one near the top.
fn change_json(draws: &mut Draws, value: &mut Value) {
    let inside = match value {
        Value::Object(map) if !map.is_empty() => {
            let at = draws.below(map.len());
            map.iter_mut().nth(at).map(|(_, inner)| inner)
        }
        Value::Array(list) if !list.is_empty() => {
            let at = draws.below(list.len());
            list.get_mut(at)
        }
        _ => None,
    };
    if let Some(inside) = inside
        && draws.below(4) != 0
    {
        return change_json(draws, inside);
    }
    let other = another(draws);
    match value {
        Value::Object(map) if draws.below(3) != 0 => change_object(draws, map, other),
        Value::Array(list) if draws.below(3) != 0 && !list.is_empty() => {
            let at = draws.below(list.len());
            match draws.below(4) {
                0 => _ = list.remove(at),
                1 => list.insert(at, other),
                2 => list.push(list[at].clone()),
                _ => {
                    let most = (LONGEST / (1 + list[at].to_string().len())).clamp(1, 300);
                    let many = vec![list[at].clone(); 1 + draws.below(most)];
                    list.extend(many);
                }
            }
        }
        Value::Number(number) if draws.below(2) == 0 => {
            let near = number.as_i64().unwrap_or(0).wrapping_add(draws.below(3) as i64 - 1);
            *value = json!(near);
        }
        Value::String(text) if draws.below(2) == 0 && text.len() < 1000 => {
            *value = json!(text.repeat(1 + draws.below(100)));
        }
        _ => *value = other,
    }
}

fn change_object(draws: &mut Draws, map: &mut Map<String, Value>, other: Value) {
    let keys: Vec<String> = map.keys().cloned().collect();
    if keys.is_empty() {
        map.insert("a".into(), other);
        return;
    }
    let (one, two) = (&keys[draws.below(keys.len())], &keys[draws.below(keys.len())]);
    match draws.below(4) {
        0 => _ = map.remove(one),
        1 => _ = map.insert("unknown_key".into(), other),
        2 => {
            // One key's value under another.
            let value = map[one].clone();
            map.insert(two.clone(), value);
        }
        _ => _ = map.insert(one.clone(), other),
    }
}

fn another(draws: &mut Draws) -> Value {
    match draws.below(16) {
        0 => Value::Null,
        1 => json!(true),
        2 => json!(""),
        3 => json!("a\u{0}\u{202e}\n"),
        4 => json!("x".repeat(1 << draws.below(15))),
        5 => json!([]),
        6 => json!({}),
        7 => (0..100).fold(json!([]), |inner, _| json!([inner])),
        8 => (0..100).fold(json!({}), |inner, _| json!({ "a": inner })),
        9 => json!(-1),
        10 => json!(1e308),
        11 => json!(0.5),
        12 => json!(draws.below(300)),
        _ => json!(NUMBERS[draws.below(NUMBERS.len())]),
    }
}
