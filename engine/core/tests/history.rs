//! History is given up only where nothing else is free: not for blocks that nobody has and no bit tells of, however they came
//! to be hidden.
#![cfg(not(modelled))]

use std::process::Command;

use hypern_shm_core::arena::{Info, SMALL};
use hypern_shm_core::geometry::Geometry;
use hypern_shm_core::layout::{Header, cell_kind, kind};
use hypern_shm_core::space::{Actor, Context, Space};
use hypern_shm_core::{ChannelKind, ChannelSpec, Channels, Form, Options, Segment, World};

const CHILD: &str = "HISTORY_CHILD";

fn channels(segment: &Segment) -> Channels {
    Channels::new(&World::new(segment, "").expect("room"), ChannelKind::Channel)
}

fn create(channels: &Channels, name: &str, buffer_size: u64) {
    let spec = ChannelSpec { buffer_size, metadata: vec![], fail_when_unheard: false, dedup_window: None };
    assert_eq!(channels.create(name, &spec), Ok(true));
}

fn say(channels: &Channels, name: &str, times: usize) {
    (0..times).for_each(|_| assert!(channels.publish(name, b"x", Form::Text).expect("attached").is_some()));
}

#[test]
fn hidden_blocks_are_found_before_history_goes() {
    const BLOCKS: u32 = 256;
    const KEPT: usize = 8;
    let space = Space::boxed(Geometry::tiny(1, 1, 1, [BLOCKS, 0, 0]));
    let actor = Actor::new(0, 1);
    let cx = Context { space: &space, actor: &actor };
    let geometry = &space.geometry;
    let cell = cx.new_channel(cell_kind::CHANNEL, Header::worlds, 0, KEPT.ilog2(), 0, 0).expect("room");
    cell.make_live(cx);
    let ring = cell.ring(cx).expect("a ring").expect("this life");
    for _ in 0..KEPT {
        let held = cx.store(Info::new(kind::BYTES, 0, 0, 0), u64::from(ring.cell), 0, &[], b"kept").expect("room");
        ring.publish(cx, held, |_| true, |_| true).expect("sound").expect("it is open");
    }
    for times in 0..3 {
        // Nobody has the bits: whoever took them is gone, or lost them.
        (0..BLOCKS as usize / 64).for_each(|word| cx.view().set(geometry.bits_at[0] + word, 0));
        let free = geometry.reserve_from as usize - KEPT;
        let held: Vec<u64> = (0..free).map(|_| cx.allocate(SMALL).expect("room").reference).collect();
        assert_eq!(cx.view().get(Header::evictions), 0, "time {times}");
        held.into_iter().for_each(|reference| assert!(cx.free(reference)));
    }
    // Where nothing is free, it goes, and whole.
    let held: Vec<_> = std::iter::from_fn(|| cx.allocate(SMALL).ok()).collect();
    assert_eq!((held.len(), cx.view().get(Header::evictions)), (geometry.reserve_from as usize, KEPT as u64));
}

/// One stays; many come, publish, and leave in order, each with blocks that it freed last.
#[test]
fn history_stays_however_many_leave() {
    if let Ok(name) = std::env::var(CHILD) {
        let segment = Segment::attach(&name).expect("it is there");
        let channels = channels(&segment);
        let subscribe = |number| channels.subscribe("busy", &format!("client {number}"), None).expect("room").expect("it is there");
        let handles: Vec<_> = (0..8).map(subscribe).collect();
        say(&channels, "busy", 20);
        drop(handles);
        return segment.close().expect("attached");
    }
    let name = format!("history-{}", std::process::id());
    let segment = Segment::open(&name, &Options { size: 1 << 20, ..Options::default() }).expect("room");
    let channels = channels(&segment);
    create(&channels, "kept", 64);
    create(&channels, "busy", 16);
    say(&channels, "kept", 64);
    for _ in 0..150 {
        let mut child = Command::new(std::env::current_exe().expect("it runs"));
        let done = child.args(["--exact", "history_stays_however_many_leave"]).env(CHILD, &name).output().expect("it starts");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    let stats = segment.stats().expect("attached");
    segment.unlink().expect("it is there");
    println!("{:?} of {:?} blocks in use", stats.blocks, stats.max_blocks);
    assert_eq!(stats.evicted_messages, 0);
}

/// Two threads at once lose what they have as hints; it is found again.
#[test]
fn history_stays_while_threads_publish() {
    let segment = Segment::private(&Options { size: 1 << 20, ..Options::default() }).expect("room");
    let channels = channels(&segment);
    create(&channels, "kept", 64);
    say(&channels, "kept", 64);
    std::thread::scope(|scope| {
        for name in ["one", "other"] {
            create(&channels, name, 16);
            let channels = &channels;
            scope.spawn(move || say(channels, name, 200_000));
        }
    });
    assert_eq!(segment.stats().expect("attached").evicted_messages, 0);
    assert_eq!(segment.check().expect("attached"), Vec::<String>::new());
}
