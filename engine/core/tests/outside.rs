//! A live segment seen from outside, through a mapping that is not ours: the bytes are where LAYOUT.md
//! says, the file is this user's alone, and a stranger who lets go of it takes nothing with it.
#![cfg(not(modelled))]

use hypern_shm_core::layout::{Header, LAYOUT_VERSION, MAGIC};
use hypern_shm_core::{ChannelKind, ChannelSpec, Channels, Form, Options, Segment, World, os};
use shared_memory::ShmemConf;

#[test]
fn the_bytes_are_where_the_map_says() {
    let name = format!("outside-{}", std::process::id());
    let segment = Segment::open(&name, &Options { size: 1 << 20, ..Options::default() }).unwrap();
    let channels = Channels::new(&World::new(&segment, "").unwrap(), ChannelKind::Channel);
    let spec = ChannelSpec { buffer_size: 4, metadata: vec![], fail_when_unheard: false, dedup_window: None };
    channels.create("c", &spec).unwrap();
    let payload = b"a payload that can be found from outside";
    channels.publish("c", payload, Form::Bytes).unwrap();

    let file = os::shm::file_name(&name, LAYOUT_VERSION).unwrap();
    let mut stranger = ShmemConf::new().os_id(format!("/{file}")).open().unwrap();
    stranger.set_owner(false);
    assert_eq!(stranger.len(), 1 << 20);
    // SAFETY: the mapping is `len` bytes long and lives until the end; nobody writes while we look.
    let bytes = unsafe { std::slice::from_raw_parts(stranger.as_ptr(), stranger.len()) };
    let word = |index: usize| u64::from_le_bytes(bytes[index * 8..index * 8 + 8].try_into().unwrap());
    assert_eq!(word(Header::magic), MAGIC);
    assert_eq!(word(Header::version), u64::from(LAYOUT_VERSION));
    assert_eq!(word(Header::size), 1 << 20);
    assert!(bytes.windows(payload.len()).any(|window| window == payload));
    drop(stranger);
    assert!(segment.unlink().unwrap(), "the stranger unlinked it");
}
