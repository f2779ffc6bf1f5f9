//! Random and damaged bytes through everything that reads the change stream: connection, frame, message, transaction, keys.
//! None makes it panic, and none costs more memory than a multiple of its own size.
//!
//! `PGRECAST_FUZZ_INPUTS` sets how many inputs there are, `PGRECAST_FUZZ_SEED` with which numbers; `scripts/fuzz` runs ten
//! million.

mod connection;
#[path = "../model/dice.rs"]
mod dice;
mod meter;
mod wire;

use bytes::Bytes;
use dice::Dice;
use meter::{Cost, cost};
use pgrecast::pg::replication::Frame;
use pgrecast::stream::{Assembler, Event, KeyReader, decode};

/// Inputs of a run.
const INPUTS: u64 = 300_000;

/// Memory that a byte of input may cost, in one piece and in all: a value that is NULL takes one byte there and 40 here,
/// and a table's description is kept twice.
const PER_BYTE: Cost = Cost { largest: 48, total: 256 };

/// Memory that an input may cost besides: words for an error, a few vectors' first room.
const BESIDES: Cost = Cost { largest: 2 << 10, total: 16 << 10 };

/// A connection reads into a buffer of its own, which grows with what it has to hold.
const BUFFERS: Cost = Cost { largest: 128 << 10, total: 1 << 20 };

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

fn is_bounded(seen: Cost, bytes: usize, besides: Cost) -> bool {
    let largest = besides.largest + bytes * PER_BYTE.largest;
    seen.largest <= largest && seen.total <= besides.total + bytes * PER_BYTE.total
}

fn assembler() -> Assembler {
    Assembler::new(KeyReader::new([wire::SOURCE], vec!["b".to_owned(), "a".to_owned()]), 3)
}

/// What was made of some inputs.
#[derive(Debug, Default)]
struct Made {
    inputs: u64,
    frames: u64,
    messages: u64,
    events: u64,
    worst: Cost,
}

/// One stream: a row of inputs that an assembler sees until one of them ends it.
struct Stream {
    assembler: Assembler,
    made: Made,
}

impl Stream {
    fn new() -> Stream {
        Stream { assembler: assembler(), made: Made::default() }
    }

    /// Takes the body of a CopyData message; says whether all of it was understood.
    fn take(&mut self, input: Vec<u8>) -> bool {
        let length = input.len();
        let data = Bytes::from(input);
        let ((understood, events), seen) = cost(|| self.read(data.clone()));
        self.made.inputs += 1;
        self.made.events += events.len() as u64;
        self.made.worst.largest = self.made.worst.largest.max(seen.largest);
        self.made.worst.total = self.made.worst.total.max(seen.total);
        assert!(is_bounded(seen, length, BESIDES), "{seen:?} for {length} bytes: {:02x?}", &data[..]);
        if !understood {
            self.assembler = assembler();
        }
        understood
    }

    fn read(&mut self, data: Bytes) -> (bool, Vec<Event>) {
        let mut events = Vec::new();
        let data = match Frame::parse(data) {
            Ok(Frame::XLogData { data, .. }) => data,
            Ok(Frame::Keepalive { .. }) => return (true, events),
            Err(_) => return (false, events),
        };
        self.made.frames += 1;
        let Ok(message) = decode(data) else { return (false, events) };
        self.made.messages += 1;
        (self.assembler.feed(&message, &mut events).is_ok(), events)
    }
}

/// A frame with this message or with noise, damaged, or what is no such frame.
fn wild_input(message: &[u8], last: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut input = match dice.below(20) {
        0 => wire::keepalive(dice),
        1 => wire::noise(dice),
        2..5 => {
            let noise = wire::noise(dice);
            wire::framed(&noise, dice)
        }
        _ => wire::framed(message, dice),
    };
    for _ in 0..[0, 0, 1, 1, 1, 2, 4][dice.below(7)] {
        wire::damage(&mut input, last, dice);
    }
    input
}

#[test]
fn no_input_makes_the_decoder_panic_or_costs_much() {
    let mut dice = Dice::new(setting("PGRECAST_FUZZ_SEED").unwrap_or(1));
    let inputs = setting("PGRECAST_FUZZ_INPUTS").unwrap_or(INPUTS);
    let mut stream = Stream::new();
    let mut last = Vec::new();
    while stream.made.inputs < inputs {
        let messages = wire::transaction(&mut dice);
        // Of some transactions one message is damaged, so that what comes before and behind it is understood.
        let only = dice.once_in(3).then(|| dice.below(messages.len()));
        for (n, message) in messages.iter().enumerate() {
            let wild = only.is_none_or(|only| only == n);
            let input = if wild { wild_input(message, &last, &mut dice) } else { wire::framed(message, &mut dice) };
            last.clone_from(&input);
            stream.take(input);
        }
    }
    println!("{:?}", stream.made);
    assert!(stream.made.events > inputs / 20, "too little of it was understood: {:?}", stream.made);
}

#[test]
fn no_bytes_make_a_connection_panic_or_cost_much() {
    let mut dice = Dice::new(setting("PGRECAST_FUZZ_SEED").unwrap_or(1));
    let (mut frames, mut last) = (0, Vec::new());
    let connections = setting("PGRECAST_FUZZ_INPUTS").unwrap_or(INPUTS) / 50;
    for _ in 0..connections {
        let bodies: Vec<Vec<u8>> = wire::transaction(&mut dice).iter().map(|m| wire::framed(m, &mut dice)).collect();
        let mut bytes = connection::welcome();
        bodies.iter().for_each(|body| bytes.extend(connection::message(b'd', body)));
        for _ in 0..dice.below(4) {
            wire::damage(&mut bytes, &last, &mut dice);
        }
        last.clone_from(&bytes);
        let (length, piece) = (bytes.len(), 1 + dice.below(bytes.len().max(1)));
        let (read, seen) = cost(|| connection::frames(bytes, piece));
        frames += read.len() as u64;
        assert!(is_bounded(seen, length, BUFFERS), "{seen:?} for {length} bytes: {last:02x?}");
    }
    assert!(frames > connections, "too few frames were read: {frames}");
}

/// The generator is understood by what it is meant for, to the last message; else the damaged ones would show little.
#[test]
fn what_a_server_sends_is_understood() {
    let mut dice = Dice::new(1);
    let mut stream = Stream::new();
    for _ in 0..500 {
        let messages = wire::transaction(&mut dice);
        for message in &messages {
            let input = wire::framed(message, &mut dice);
            assert!(stream.take(input), "not understood: {message:02x?}");
        }
        let bodies: Vec<Vec<u8>> = messages.iter().map(|m| wire::framed(m, &mut dice)).collect();
        let sent = bodies.iter().flat_map(|body| connection::message(b'd', body));
        let bytes = connection::welcome().into_iter().chain(sent).collect();
        assert_eq!(connection::frames(bytes, 7).len(), messages.len());
    }
    assert!(stream.made.events >= 500, "every transaction has its end: {:?}", stream.made);
}

/// The meter sees what the decoder must not do: believe a count.
#[test]
fn believing_a_count_would_be_noticed() {
    let input = b"T\x7F\xFF\xFF\xFF\0";
    let believe = |input: &[u8]| {
        let count = u32::from_be_bytes([input[1], input[2], input[3], input[4]]) as usize;
        std::hint::black_box(Vec::<u32>::with_capacity(count >> 8)).capacity()
    };
    let (_, seen) = cost(|| believe(input));
    assert!(!is_bounded(seen, input.len(), BESIDES) && !is_bounded(seen, input.len(), BUFFERS), "{seen:?}");
}
