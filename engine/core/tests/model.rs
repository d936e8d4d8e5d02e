//! The ring against tokio's broadcast channel, step by step: the same messages received, the same
//! numbers missed, whatever the order of publishing, subscribing, receiving and dropping.
#![cfg(not(modelled))]

use std::sync::Arc;

use hypern_shm_core::{ChannelKind, ChannelSpec, Channels, Form, Options, Receiver, Segment, World};
use proptest::prelude::*;
use tokio::sync::broadcast::{self, error::TryRecvError};

/// One receiver of each kind, and what each has missed.
struct Pair {
    ours: Arc<Receiver>,
    model: broadcast::Receiver<u64>,
    model_missed: u64,
}

impl Pair {
    fn receive(&mut self) -> (Option<u64>, Option<u64>) {
        let mut buffer = Vec::new();
        let ours = self.ours.try_recv(&mut buffer).unwrap().map(|_| u64::from_le_bytes(buffer.try_into().unwrap()));
        let model = loop {
            match self.model.try_recv() {
                Ok(value) => break Some(value),
                Err(TryRecvError::Lagged(missed)) => self.model_missed += missed,
                Err(_) => break None,
            }
        };
        (ours, model)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_ring_is_a_broadcast_channel(log2 in 0_u32..6, steps in proptest::collection::vec((0_u8..10, any::<prop::sample::Index>()), 1..400)) {
        let segment = Segment::private(&Options { size: 1 << 20, ..Options::default() }).unwrap();
        let channels = Channels::new(&World::new(&segment, "").unwrap(), ChannelKind::Channel);
        let spec = ChannelSpec { buffer_size: 1 << log2, metadata: vec![], fail_when_unheard: false, dedup_window: None };
        channels.create("c", &spec).unwrap();
        let (sender, _) = broadcast::channel(1 << log2);
        let mut pairs: Vec<Pair> = Vec::new();
        let mut serial = 0_u64;
        for (step, index) in steps {
            match step {
                0..=4 => {
                    serial += 1;
                    let heard = channels.publish("c", &serial.to_le_bytes(), Form::Bytes).unwrap().unwrap();
                    prop_assert_eq!(heard, sender.send(serial).unwrap_or(0) as u64);
                }
                5 => pairs.push(Pair {
                    ours: channels.subscribe("c", "client", None).unwrap().unwrap(),
                    model: sender.subscribe(),
                    model_missed: 0,
                }),
                6 if !pairs.is_empty() => {
                    pairs.swap_remove(index.index(pairs.len()));
                }
                _ if !pairs.is_empty() => {
                    let at = index.index(pairs.len());
                    let (ours, model) = pairs[at].receive();
                    prop_assert_eq!(ours, model);
                    prop_assert_eq!(pairs[at].ours.missed(), pairs[at].model_missed);
                }
                _ => {}
            }
        }
    }
}
