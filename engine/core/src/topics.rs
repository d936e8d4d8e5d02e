//! Topic patterns: who subscribed to which, and whose patterns match a topic.
//!
//! Segments are separated by `:`; `*` is exactly one segment, `#` is zero or more, anywhere. The truth
//! is one trie of (pattern, client) per matcher, shared by all workers; matching goes through a
//! private tree compiled from it, valid while the root word is unchanged.

use std::sync::{Arc, Mutex};

use hashbrown::{HashMap, HashSet};

use crate::error::Result;
use crate::layout::World as WorldCell;
use crate::record::{Owners, encode};
use crate::space::Context;
use crate::sync::Ordering;
use crate::trie::{Change, Trie};
use crate::whereabouts::{key_pair, pair_key};
use crate::world::{World, check_length};

/// Does a pattern match a topic? Linear in both: only the last `#` is ever gone back to.
pub fn pattern_matches(pattern: &str, topic: &str) -> bool {
    let pattern: Vec<&str> = pattern.split(':').collect();
    let topic: Vec<&str> = topic.split(':').collect();
    let (mut p, mut t) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while t < topic.len() {
        match pattern.get(p) {
            Some(&"#") => {
                back = Some((p + 1, t));
                p += 1;
            }
            Some(&segment) if segment == "*" || segment == topic[t] => {
                p += 1;
                t += 1;
            }
            _ => match back {
                Some((after, from)) => {
                    p = after;
                    t = from + 1;
                    back = Some((after, from + 1));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&segment| segment == "#")
}

/// Which matcher of a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicsKind {
    /// The one that the channel managers of a world share.
    OfManager,
    /// The one that free matchers of a world share.
    Free,
}

#[derive(Default)]
struct Node {
    next: HashMap<String, usize>,
    star: Option<usize>,
    hash: Option<usize>,
    clients: Vec<Arc<str>>,
}

/// The patterns of one state of the trie, as a tree over segments.
struct Compiled {
    root: u64,
    nodes: Vec<Node>,
    /// Pattern → its clients.
    patterns: HashMap<String, Vec<Arc<str>>>,
}

impl Compiled {
    fn new(root: u64, pairs: Vec<(String, String)>) -> Compiled {
        let mut compiled = Compiled { root, nodes: vec![Node::default()], patterns: HashMap::new() };
        for (pattern, client) in pairs {
            let client: Arc<str> = client.into();
            let mut at = 0;
            for segment in pattern.split(':') {
                let fresh = compiled.nodes.len();
                let node = &mut compiled.nodes[at];
                at = match segment {
                    "*" => *node.star.get_or_insert(fresh),
                    "#" => *node.hash.get_or_insert(fresh),
                    literal => *node.next.entry_ref(literal).or_insert(fresh),
                };
                if at == fresh {
                    compiled.nodes.push(Node::default());
                }
            }
            compiled.nodes[at].clients.push(client.clone());
            compiled.patterns.entry(pattern).or_default().push(client);
        }
        compiled
    }

    fn matches(&self, topic: &str) -> Vec<String> {
        let segments: Vec<&str> = topic.split(':').collect();
        let mut clients = Vec::new();
        let mut known: HashSet<&str> = HashSet::new();
        // (node, segments used): two ways to one place are walked once, so `#` cannot make it explode.
        let mut walked: HashSet<(usize, usize)> = HashSet::new();
        let mut open = vec![(0, 0)];
        while let Some((at, used)) = open.pop() {
            let node = &self.nodes[at];
            if let Some(hash) = node.hash {
                for rest in used..=segments.len() {
                    if walked.insert((hash, rest)) {
                        open.push((hash, rest));
                    }
                }
            }
            if used == segments.len() {
                clients.extend(node.clients.iter().filter(|client| known.insert(client)).map(|client| client.to_string()));
                continue;
            }
            if let Some(star) = node.star {
                open.push((star, used + 1));
            }
            if let Some(&next) = node.next.get(segments[used]) {
                open.push((next, used + 1));
            }
        }
        clients
    }
}

/// A matcher of one world.
#[derive(Clone)]
pub struct Topics {
    world: World,
    field: usize,
    compiled: Arc<Mutex<Option<Arc<Compiled>>>>,
}

impl Topics {
    /// The matcher of this kind in `world`.
    pub fn new(world: &World, kind: TopicsKind) -> Topics {
        Topics {
            world: world.clone(),
            field: match kind {
                TopicsKind::OfManager => WorldCell::manager_topics,
                TopicsKind::Free => WorldCell::free_topics,
            },
            compiled: Arc::default(),
        }
    }

    fn trie<'a>(&self, cx: Context<'a>) -> Trie<'a> {
        Trie::new(cx, self.world.root(self.field))
    }

    fn compiled(&self) -> Result<Arc<Compiled>> {
        let cx = self.world.cx()?;
        let trie = self.trie(cx);
        let root = cx.word(trie.root).load(Ordering::Acquire);
        if let Ok(compiled) = self.compiled.try_lock()
            && let Some(compiled) = compiled.as_ref().filter(|compiled| compiled.root == root)
        {
            return Ok(compiled.clone());
        }
        let mut pairs = Vec::new();
        trie.records(|_, record| pairs.extend(key_pair(record.key())))?;
        // Should the trie have changed while it was listed, the root read before is not the root now,
        // and the next call compiles again.
        let compiled = Arc::new(Compiled::new(root, pairs));
        if let Ok(mut mirror) = self.compiled.try_lock() {
            *mirror = Some(compiled.clone());
        }
        Ok(compiled)
    }

    /// Subscribes a client to a pattern.
    pub fn subscribe(&self, pattern: &str, client: &str) -> Result<()> {
        check_length("pattern", pattern)?;
        check_length("client_id", client)?;
        let cx = self.world.cx()?;
        self.world.segment().owns_something()?;
        let trie = self.trie(cx);
        let (place, key) = entry_of(cx, pattern, client);
        let me = cx.actor.owner;
        trie.change_record(place, &key, |found| {
            let mut owners = found.map_or_else(Owners::new, |(_, record)| record.owners);
            if owners.contains(&me) {
                return Ok((Change::Keep, ()));
            }
            owners.push(me);
            Ok((Change::Put(0, cx.new_record(trie.root, place, &encode(&owners, &key, &[]))?), ()))
        })?;
        Ok(())
    }

    /// Ends a subscription. False: there was none.
    pub fn unsubscribe(&self, pattern: &str, client: &str) -> Result<bool> {
        let cx = self.world.cx()?;
        let (place, key) = entry_of(cx, pattern, client);
        let removed = self
            .trie(cx)
            .change_record(place, &key, |found| Ok((if found.is_some() { Change::Remove } else { Change::Keep }, found.is_some())))?;
        Ok(removed.unwrap_or(false))
    }

    /// Ends all subscriptions of a client; how many there were.
    pub fn unsubscribe_all(&self, client: &str) -> Result<u64> {
        let compiled = self.compiled()?;
        let mut ended = 0;
        for (pattern, clients) in &compiled.patterns {
            if clients.iter().any(|other| &**other == client) {
                ended += u64::from(self.unsubscribe(pattern, client)?);
            }
        }
        Ok(ended)
    }

    /// The clients with a pattern that matches, each once.
    pub fn match_topic(&self, topic: &str) -> Result<Vec<String>> {
        Ok(self.compiled()?.matches(topic))
    }

    /// All patterns.
    pub fn patterns(&self) -> Result<Vec<String>> {
        Ok(self.compiled()?.patterns.keys().cloned().collect())
    }

    /// How many patterns there are.
    pub fn pattern_count(&self) -> Result<u64> {
        Ok(self.compiled()?.patterns.len() as u64)
    }

    /// How many clients subscribed to a pattern.
    pub fn subscriber_count(&self, pattern: &str) -> Result<u64> {
        Ok(self.compiled()?.patterns.get(pattern).map_or(0, |clients| clients.len() as u64))
    }
}

fn entry_of(cx: Context<'_>, pattern: &str, client: &str) -> (u64, Vec<u8>) {
    let hash = |text: &str| cx.space.hash(text.as_bytes());
    (hash(pattern).pair(hash(client)), pair_key(pattern, client))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, word for word.
    fn by_definition(pattern: &[&str], topic: &[&str]) -> bool {
        match pattern.split_first() {
            None => topic.is_empty(),
            Some((&"#", rest)) => (0..=topic.len()).any(|used| by_definition(rest, &topic[used..])),
            Some((&segment, rest)) => {
                topic.split_first().is_some_and(|(first, topic)| (segment == "*" || segment == *first) && by_definition(rest, topic))
            }
        }
    }

    #[test]
    fn documented_examples() {
        for (pattern, topic, expected) in [
            ("chat:general", "chat:general", true),
            ("chat:*", "chat:random", true),
            ("chat:*", "events:foo", false),
            ("chat:*", "chat", false),
            ("chat:*", "chat:a:b", false),
            ("events:#", "events:system:alert:critical", true),
            ("events:#", "events", true),
            ("#", "", true),
            ("x:#:y", "x:y", true),
            ("x:#:y", "x:a:b:y", true),
            ("a:*", "a:", true),
            ("a:*b", "a:xb", false),
        ] {
            assert_eq!(pattern_matches(pattern, topic), expected, "{pattern} {topic}");
        }
    }

    proptest! {
        #[test]
        fn matching_is_the_definition(patterns in proptest::collection::vec("[ab*#](:[ab*#]){0,5}", 1..20), topic in "[ab](:[ab]){0,6}") {
            let words: Vec<&str> = topic.split(':').collect();
            let mut expected: Vec<String> = Vec::new();
            for pattern in &patterns {
                let segments: Vec<&str> = pattern.split(':').collect();
                let matches = by_definition(&segments, &words);
                prop_assert_eq!(pattern_matches(pattern, &topic), matches, "{} {}", pattern, topic);
                if matches && !expected.contains(pattern) {
                    expected.push(pattern.clone());
                }
            }
            let compiled = Compiled::new(0, patterns.iter().map(|pattern| (pattern.clone(), pattern.clone())).collect());
            let mut found = compiled.matches(&topic);
            found.sort();
            expected.sort();
            prop_assert_eq!(found, expected);
        }
    }
}
