//! Topic patterns: who subscribed to which, and whose patterns match a topic.
//!
//! Segments are separated by `:`; `*` is exactly one segment, `#` is zero or more, anywhere. The truth
//! is one trie of (pattern, client) per matcher, shared by all workers; matching walks a private tree over
//! segments, brought up to date by what changed in the trie since the last look.

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use crate::content::Content;
use crate::error::Result;
use crate::layout::World as WorldCell;
use crate::os::lock::Lock;
use crate::owned::owners_and_us;
use crate::record::{Record, key_pair, pair_of};
use crate::space::Context;
use crate::sync::Ordering;
use crate::trie::{Change, Delta, Mirror, Trie};
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
    /// Handles on patterns of channels.
    Handles,
}

/// One step of the patterns as a tree over segments.
#[derive(Default)]
struct Node {
    next: HashMap<String, Node>,
    star: Option<Box<Node>>,
    hash: Option<Box<Node>>,
    /// The pattern that ends here, and who has it.
    pattern: Arc<str>,
    clients: Vec<Arc<str>>,
}

impl Node {
    fn is_unused(&self) -> bool {
        self.next.is_empty() && self.star.is_none() && self.hash.is_none() && self.clients.is_empty()
    }

    fn add(&mut self, segments: &[&str], pattern: Arc<str>, client: Arc<str>) {
        match segments.split_first() {
            None => {
                self.pattern = pattern;
                self.clients.push(client);
            }
            Some((&"*", rest)) => self.star.get_or_insert_default().add(rest, pattern, client),
            Some((&"#", rest)) => self.hash.get_or_insert_default().add(rest, pattern, client),
            Some((&literal, rest)) => self.next.entry_ref(literal).or_default().add(rest, pattern, client),
        }
    }

    fn remove(&mut self, segments: &[&str], client: &str) {
        match segments.split_first() {
            None => {
                if let Some(at) = self.clients.iter().position(|other| **other == *client) {
                    self.clients.swap_remove(at);
                }
            }
            Some((&("*" | "#"), rest)) => {
                let wild = if segments[0] == "*" { &mut self.star } else { &mut self.hash };
                if let Some(node) = wild {
                    node.remove(rest, client);
                    if node.is_unused() {
                        *wild = None;
                    }
                }
            }
            Some((&literal, rest)) => {
                if let Some(node) = self.next.get_mut(literal) {
                    node.remove(rest, client);
                    if node.is_unused() {
                        self.next.remove(literal);
                    }
                }
            }
        }
    }
}

/// Patterns deeper than this are matched one by one: a tree over them would be walked too deep.
const DEEPEST: usize = 128;

/// The patterns as a tree over segments, and what it was made from.
#[derive(Default)]
struct Compiled {
    mirror: Mirror<(Arc<str>, Arc<str>)>,
    tree: Node,
    deep: Vec<(Arc<str>, Arc<str>)>,
    /// Pattern → its clients.
    patterns: HashMap<Arc<str>, Vec<Arc<str>>>,
}

impl Compiled {
    /// Brings it up to date with the trie: at the cost of what changed.
    fn update(&mut self, trie: &Trie<'_>) -> Result<()> {
        if self.mirror.word() == trie.cx.word(trie.root).load(Ordering::Acquire) {
            return Ok(());
        }
        let pair = |record: &Record| key_pair(record.key()).map(|(pattern, client)| (pattern.into(), client.into()));
        for delta in self.mirror.update(trie, &mut |_, record| pair(record))? {
            match delta {
                Delta::Added((pattern, client)) => self.add(pattern, client),
                Delta::Removed((pattern, client)) => self.remove(&pattern, &client),
            }
        }
        Ok(())
    }

    fn add(&mut self, pattern: Arc<str>, client: Arc<str>) {
        let segments: Vec<&str> = pattern.split(':').collect();
        if segments.len() > DEEPEST {
            self.deep.push((pattern.clone(), client.clone()));
        } else {
            self.tree.add(&segments, pattern.clone(), client.clone());
        }
        self.patterns.entry(pattern).or_default().push(client);
    }

    fn remove(&mut self, pattern: &str, client: &str) {
        let segments: Vec<&str> = pattern.split(':').collect();
        if segments.len() > DEEPEST {
            self.deep.retain(|(other, of)| **other != *pattern || **of != *client);
        } else {
            self.tree.remove(&segments, client);
        }
        if let Some(clients) = self.patterns.get_mut(pattern) {
            if let Some(at) = clients.iter().position(|other| **other == *client) {
                clients.swap_remove(at);
            }
            if clients.is_empty() {
                self.patterns.remove(pattern);
            }
        }
    }

    /// Shows each pattern that matches, and a client of it.
    fn each_match<'a>(&'a self, topic: &str, mut see: impl FnMut(&'a Arc<str>, &'a Arc<str>)) {
        let segments: Vec<&str> = topic.split(':').collect();
        // (node, segments used): two ways to one place are walked once, so `#` cannot make it explode.
        let mut walked: HashSet<(*const Node, usize)> = HashSet::new();
        let mut open = vec![(&self.tree, 0)];
        while let Some((node, used)) = open.pop() {
            if let Some(hash) = node.hash.as_deref() {
                for rest in used..=segments.len() {
                    if walked.insert((std::ptr::from_ref(hash), rest)) {
                        open.push((hash, rest));
                    }
                }
            }
            if used == segments.len() {
                node.clients.iter().for_each(|client| see(&node.pattern, client));
                continue;
            }
            if let Some(star) = node.star.as_deref() {
                open.push((star, used + 1));
            }
            if let Some(next) = node.next.get(segments[used]) {
                open.push((next, used + 1));
            }
        }
        self.deep.iter().filter(|(pattern, _)| pattern_matches(pattern, topic)).for_each(|(pattern, client)| see(pattern, client));
    }

    /// The clients with a pattern that matches, each once.
    fn matches(&self, topic: &str) -> Vec<String> {
        let mut clients = Vec::new();
        let mut known: HashSet<&str> = HashSet::new();
        self.each_match(topic, |_, client| {
            if known.insert(client) {
                clients.push(client.to_string());
            }
        });
        clients
    }
}

/// A matcher of one world.
#[derive(Clone)]
pub struct Topics {
    world: World,
    field: usize,
    compiled: Arc<Lock<Compiled>>,
}

impl Topics {
    /// The matcher of this kind in `world`.
    pub fn new(world: &World, kind: TopicsKind) -> Topics {
        let field = match kind {
            TopicsKind::OfManager => WorldCell::manager_topics,
            TopicsKind::Free => WorldCell::free_topics,
            TopicsKind::Handles => WorldCell::patterns,
        };
        Topics { world: world.clone(), field, compiled: Arc::default() }
    }

    fn trie<'a>(&self, cx: Context<'a>) -> Trie<'a> {
        Trie::new(cx, self.world.root(self.field))
    }

    /// The root word: another one each time something has changed.
    pub(crate) fn word(&self, cx: Context<'_>) -> u64 {
        self.trie(cx).word()
    }

    /// Looks at the patterns as they are now.
    fn with<R>(&self, look: impl FnOnce(&Compiled) -> R) -> Result<R> {
        let cx = self.world.cx()?;
        match self.compiled.try_lock() {
            Some(mut compiled) => {
                compiled.update(&self.trie(cx))?;
                Ok(look(&compiled))
            }
            // Another thread is at it.
            None => {
                let mut compiled = Compiled::default();
                compiled.update(&self.trie(cx))?;
                Ok(look(&compiled))
            }
        }
    }

    /// Subscribes a client to a pattern.
    pub fn subscribe(&self, pattern: &str, client: &str) -> Result<()> {
        check_length("pattern", pattern)?;
        check_length("client_id", client)?;
        self.add(pattern, client)
    }

    /// Adds a pair, however long.
    pub(crate) fn add(&self, pattern: &str, client: &str) -> Result<()> {
        let cx = self.world.cx()?;
        self.world.segment().owns_something()?;
        let trie = self.trie(cx);
        let (place, key) = pair_of(cx, pattern, client);
        trie.change(
            place,
            |value| cx.has_key(value, &key),
            |found| {
                let (owners, added) = owners_and_us(cx, found)?;
                if !added {
                    return Ok((Change::Keep, ()));
                }
                Ok((Change::Put(0, cx.new_record(trie.root, place, &Content::new(&owners, &key, &[]))?), ()))
            },
        )?;
        Ok(())
    }

    /// Has a client subscribed to a pattern?
    pub fn contains(&self, pattern: &str, client: &str) -> Result<bool> {
        Ok(self.record(pattern, client)?.is_some())
    }

    /// The record of a subscription.
    pub(crate) fn record(&self, pattern: &str, client: &str) -> Result<Option<Record>> {
        let cx = self.world.cx()?;
        let (place, key) = pair_of(cx, pattern, client);
        Ok(self.trie(cx).get(place, &key)?.map(|(_, record)| record))
    }

    /// Ends a subscription. False: there was none.
    pub fn unsubscribe(&self, pattern: &str, client: &str) -> Result<bool> {
        let cx = self.world.cx()?;
        let (place, key) = pair_of(cx, pattern, client);
        self.trie(cx).remove(place, |value| cx.has_key(value, &key))
    }

    /// Ends all subscriptions of a client; how many there were.
    pub fn unsubscribe_all(&self, client: &str) -> Result<u64> {
        let of_client = |clients: &Vec<Arc<str>>| clients.iter().any(|other| &**other == client);
        let patterns: Vec<Arc<str>> = self.with(|compiled| {
            let mine = compiled.patterns.iter().filter(|(_, clients)| of_client(clients));
            mine.map(|(pattern, _)| pattern.clone()).collect()
        })?;
        let mut ended = 0;
        for pattern in patterns {
            ended += u64::from(self.unsubscribe(&pattern, client)?);
        }
        Ok(ended)
    }

    /// The clients with a pattern that matches, each once.
    pub fn match_topic(&self, topic: &str) -> Result<Vec<String>> {
        self.with(|compiled| compiled.matches(topic))
    }

    /// The patterns that match, each with every client that has it.
    pub(crate) fn match_pairs(&self, topic: &str) -> Result<Vec<(Arc<str>, Arc<str>)>> {
        self.with(|compiled| {
            let mut pairs = Vec::new();
            compiled.each_match(topic, |pattern, client| pairs.push((pattern.clone(), client.clone())));
            pairs
        })
    }

    /// All patterns.
    pub fn patterns(&self) -> Result<Vec<String>> {
        self.with(|compiled| compiled.patterns.keys().map(|pattern| pattern.to_string()).collect())
    }

    /// How many patterns there are.
    pub fn pattern_count(&self) -> Result<u64> {
        self.with(|compiled| compiled.patterns.len() as u64)
    }

    /// How many clients subscribed to a pattern.
    pub fn subscriber_count(&self, pattern: &str) -> Result<u64> {
        self.with(|compiled| compiled.patterns.get(pattern).map_or(0, |clients| clients.len() as u64))
    }
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
            let mut compiled = Compiled::default();
            // Added twice and removed once is there; removed as often as added is not.
            for (times, keep) in [(2, true), (1, false)] {
                for pattern in patterns.iter().cycle().take(patterns.len() * times) {
                    match keep {
                        true => compiled.add(pattern.as_str().into(), pattern.as_str().into()),
                        false => compiled.remove(pattern, pattern),
                    }
                }
            }
            let mut found = compiled.matches(&topic);
            found.sort();
            expected.sort();
            prop_assert_eq!(found, expected);
        }
    }
}
