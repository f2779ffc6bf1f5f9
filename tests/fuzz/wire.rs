//! Bytes as a server may send them, and bytes as it never would.

use crate::dice::Dice;

/// The source's oid in every message that is of it.
pub const SOURCE: u32 = 16_384;

/// The messages of one transaction: it changes the source, mostly, and other tables.
pub fn transaction(dice: &mut Dice) -> Vec<Vec<u8>> {
    let commit_lsn = dice.next() >> 8;
    let mut messages = vec![begin(commit_lsn, dice)];
    if dice.once_in(4) {
        messages.push([b"O", &dice.next().to_be_bytes()[..], b"origin\0"].concat());
    }
    if dice.once_in(4) {
        messages.push([b"Y", &word(dice)[..], b"public\0mood\0"].concat());
    }
    messages.push(relation(dice));
    for _ in 0..dice.below(6) {
        messages.push(change(dice));
    }
    messages.push([b"C\0", &commit_lsn.to_be_bytes()[..], &(commit_lsn + 8).to_be_bytes(), &[0; 8]].concat());
    messages
}

fn begin(commit_lsn: u64, dice: &mut Dice) -> Vec<u8> {
    [b"B", &commit_lsn.to_be_bytes()[..], &dice.next().to_be_bytes(), &word(dice)].concat()
}

fn word(dice: &mut Dice) -> [u8; 4] {
    (dice.next() as u32).to_be_bytes()
}

/// The source: a key of two columns, and one that is no part of it.
fn relation(dice: &mut Dice) -> Vec<u8> {
    let identity = b"di"[dice.below(2)];
    let mut out = [b"R", &SOURCE.to_be_bytes()[..], b"public\0orders\0", &[identity], &3_u16.to_be_bytes()].concat();
    for (flags, name) in [(1, "a"), (0, "other"), (1, "b")] {
        out.push(flags);
        out.extend_from_slice(name.as_bytes());
        out.push(0);
        out.extend_from_slice(&25_u32.to_be_bytes());
        out.extend_from_slice(&(-1_i32).to_be_bytes());
    }
    out
}

fn change(dice: &mut Dice) -> Vec<u8> {
    let oid = if dice.once_in(5) { dice.next() as u32 } else { SOURCE }.to_be_bytes();
    let mut out = match dice.below(6) {
        0 | 1 => [b"I", &oid[..]].concat(),
        2 | 3 => [b"U", &oid[..]].concat(),
        4 => [b"D", &oid[..]].concat(),
        _ => return other(dice),
    };
    let kind = out[0];
    if kind == b'D' || (kind == b'U' && dice.once_in(2)) {
        let whole = dice.once_in(2);
        out.push(if whole { b'O' } else { b'K' });
        row(&mut out, whole, dice);
    }
    if kind != b'D' {
        out.push(b'N');
        row(&mut out, true, dice);
    }
    out
}

fn other(dice: &mut Dice) -> Vec<u8> {
    if dice.once_in(2) {
        return [b"T", &2_u32.to_be_bytes()[..], &[dice.below(4) as u8], &SOURCE.to_be_bytes(), &word(dice)].concat();
    }
    let content = text(dice);
    let length = (content.len() as u32).to_be_bytes();
    [b"M\x01", &dice.next().to_be_bytes()[..], b"pgrecast\0", &length, &content].concat()
}

fn row(out: &mut Vec<u8>, whole: bool, dice: &mut Dice) {
    out.extend_from_slice(&3_u16.to_be_bytes());
    for is_key in [true, false, true] {
        match (is_key, dice.below(4)) {
            (false, _) if !whole => out.push(b'n'),
            (false, 0) => out.push(b'n'),
            (false, 1) => out.push(b'u'),
            (true | false, _) => {
                let text = text(dice);
                out.push(b't');
                out.extend_from_slice(&(text.len() as u32).to_be_bytes());
                out.extend_from_slice(&text);
            }
        }
    }
}

fn text(dice: &mut Dice) -> Vec<u8> {
    let length = if dice.once_in(50) { dice.below(3_000) } else { dice.below(12) };
    (0..length).map(|_| b'a' + dice.below(26) as u8).collect()
}

/// The body of the CopyData message that brings this.
pub fn framed(message: &[u8], dice: &mut Dice) -> Vec<u8> {
    [b"w", &dice.next().to_be_bytes()[..], &dice.next().to_be_bytes(), &[0; 8], message].concat()
}

/// A keepalive.
pub fn keepalive(dice: &mut Dice) -> Vec<u8> {
    [b"k", &dice.next().to_be_bytes()[..], &[0; 8], &[dice.below(2) as u8]].concat()
}

/// Nothing but chance.
pub fn noise(dice: &mut Dice) -> Vec<u8> {
    let kinds = b"BCORYIUDTM";
    let mut bytes: Vec<u8> = (0..dice.below(200)).map(|_| dice.next() as u8).collect();
    if let (Some(first), false) = (bytes.first_mut(), dice.once_in(4)) {
        *first = kinds[dice.below(kinds.len())];
    }
    bytes
}

/// Damages bytes in one of the ways in which lengths, counts and kinds go wrong.
pub fn damage(bytes: &mut Vec<u8>, other: &[u8], dice: &mut Dice) {
    if bytes.is_empty() {
        return;
    }
    let at = dice.below(bytes.len());
    match dice.below(8) {
        0 => bytes[at] ^= 1 << dice.below(8),
        1 => bytes[at] = dice.next() as u8,
        2 => bytes.truncate(at),
        3 => overwrite(bytes, at, &[0x7F, 0xFF, 0xFF, 0xFF]),
        4 => overwrite(bytes, at, &[0xFF; 4]),
        5 => overwrite(bytes, at, &[0xFF; 2]),
        6 => {
            let from = dice.below(other.len().max(1)).min(other.len());
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
        _ => {
            let again = bytes[at..].to_vec();
            bytes.extend_from_slice(&again);
        }
    }
}

fn overwrite(bytes: &mut [u8], at: usize, with: &[u8]) {
    bytes[at..].iter_mut().zip(with).for_each(|(byte, new)| *byte = *new);
}
