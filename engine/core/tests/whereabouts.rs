//! Where clients are: hints in lines of eight words, and beside them what finds its line full. Whatever is full, whoever
//! comes and goes at the same time: a client is found where it is, and nowhere else.

use std::collections::BTreeSet;
use std::sync::Barrier;

use hypern_shm_core::*;

fn segment() -> Segment {
    Segment::private(&Options { size: 2 << 20, ..Options::default() }).expect("room")
}

fn presence(segment: &Segment, namespace: &str) -> Presence {
    Presence::new(&World::new(segment, namespace).expect("room"))
}

fn found(presence: &Presence, client: &str) -> BTreeSet<String> {
    presence.client_channels(client).expect("attached").iter().map(|channel| channel.to_string()).collect()
}

fn sound(segment: &Segment) {
    assert_eq!(segment.check().expect("attached"), Vec::<String>::new());
}

#[test]
fn a_client_is_found_in_more_channels_than_a_line_holds() {
    const ROOMS: usize = 100;
    let segment = segment();
    let (here, there) = (presence(&segment, ""), presence(&segment, "another world"));
    let rooms: BTreeSet<String> = (0..ROOMS).map(|number| format!("room {number}")).collect();
    for room in &rooms {
        here.track(room, "ada", &Metadata::default()).expect("room");
        there.track(room, "ada", &Metadata::default()).expect("room");
        there.track(room, "bob", &Metadata::default()).expect("room");
    }
    sound(&segment);
    assert_eq!(found(&here, "ada"), rooms);
    assert_eq!((here.total_clients(), there.total_clients()), (Ok(1), Ok(2)));
    // Half of them one by one, so that lines have holes; and back again.
    for room in rooms.iter().step_by(2) {
        assert_eq!(here.untrack(room, "ada"), Ok(true));
    }
    assert_eq!(found(&here, "ada"), rooms.iter().skip(1).step_by(2).cloned().collect());
    for room in &rooms {
        here.track(room, "ada", &Metadata::default()).expect("room");
    }
    assert_eq!(found(&here, "ada"), rooms);
    sound(&segment);
    assert_eq!(here.untrack_all("ada").expect("attached").len(), ROOMS);
    assert!(!here.is_anywhere("ada").expect("attached"));
    assert_eq!((found(&there, "ada"), found(&there, "bob")), (rooms.clone(), rooms));
    sound(&segment);
    there.clear().expect("attached");
    assert_eq!(there.total_clients(), Ok(0));
    sound(&segment);
}

#[test]
fn what_members_say_is_hinted_at_in_the_end() {
    const ROUNDS: usize = 2_000;
    let segment = segment();
    let presence = presence(&segment, "");
    let start = Barrier::new(4);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (presence, start) = (&presence, &start);
            scope.spawn(move || {
                start.wait();
                for round in 0..ROUNDS {
                    // Few clients and rooms: all meet in the same line, and beyond it.
                    let (client, room) = (["ada", "bob"][(round + thread) % 2], format!("room {}", round / 2 % 12));
                    match (round * 7 + thread * 3) % 5 {
                        0 | 1 => drop(presence.track(&room, client, &Metadata::default()).expect("room")),
                        2 => drop(presence.untrack(&room, client).expect("attached")),
                        3 => drop(presence.untrack_all(client).expect("attached")),
                        _ => drop(presence.track(&room, client, &Metadata::default()).expect("room")),
                    }
                }
            });
        }
    });
    for client in ["ada", "bob"] {
        let listed = presence.active_channels().expect("attached").into_iter();
        let there: BTreeSet<String> = listed.filter(|room| presence.get(room, client).expect("attached").is_some()).collect();
        assert_eq!(found(&presence, client), there, "{client}");
    }
    sound(&segment);
}

#[test]
fn what_is_beyond_the_lines_takes_its_share_of_a_page() {
    const ROOMS: u64 = 150;
    let segment = segment();
    let presence = presence(&segment, "");
    let used = || segment.stats().expect("attached").blocks[0];
    // The groups, and pages for whoever comes next.
    for room in 0..ROOMS {
        for client in ["ada", "bob"] {
            presence.track(&format!("room {room}"), client, &Metadata::default()).expect("room");
        }
    }
    let before = used();
    for room in 0..ROOMS {
        presence.track(&format!("room {room}"), "cy", &Metadata::default()).expect("room");
    }
    // A record, and of the leaves of hints a share: cells are neighbours, their hints are not.
    let each = (used() - before) as f64 / ROOMS as f64;
    println!("{each:.2} blocks for a member in {ROOMS} rooms");
    assert!(each < 1.5, "{each} blocks a member");
    sound(&segment);
}
