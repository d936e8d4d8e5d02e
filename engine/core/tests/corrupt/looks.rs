//! Every look that an inspector can take, one after the other: for whoever only wants to see that each ends.

use hypern_shm_core::inspect::{Inspector, TailFrom};
use hypern_shm_core::{Beat, ChannelKind};

/// Looks at everything; gives how many things were seen, and what could not be read.
pub fn look_at_everything(inspector: &Inspector) -> (usize, Vec<String>) {
    let mut seen = inspector.overview().capacities.len();
    let mut problems = inspector.overview().problems;
    let rows = inspector.channels(None);
    problems.extend(rows.problems);
    seen += rows.channels.len();
    for row in &rows.channels {
        let (Some(namespace), Some(name)) = (&row.namespace, &row.name) else {
            continue;
        };
        let kind = if row.kind == "channel" { ChannelKind::Channel } else { ChannelKind::Broadcast };
        match inspector.channel(namespace, kind, name) {
            Ok(Some(detail)) => {
                seen += detail.handles.len() + detail.subscribers.len();
                problems.extend(detail.problems);
            }
            Ok(None) => {}
            Err(error) => problems.push(error.to_string()),
        }
        for from in [TailFrom::Last(20), TailFrom::Last(0), TailFrom::After(row.oldest_id.as_deref().unwrap_or("none"))] {
            match inspector.tail(namespace, kind, name, from, 100) {
                Ok(tail) => seen += tail.map_or(0, |tail| tail.messages.len()),
                Err(error) => problems.push(error.to_string()),
            }
        }
    }
    let members = inspector.members(None, None, u64::MAX);
    seen += members.members.len() + members.groups.len();
    problems.extend(members.problems);
    let clients = inspector.clients(None, &Beat { interval_secs: 1.0, timeout_secs: 3.0, max_retries: 3 });
    seen += clients.clients.len();
    problems.extend(clients.problems);
    let topics = inspector.topics(None);
    seen += topics.topics.len();
    problems.extend(topics.problems);
    let processes = inspector.processes();
    seen += processes.processes.len();
    problems.extend(processes.problems);
    (seen, problems)
}
