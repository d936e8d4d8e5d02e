//! `TopicMatcher`.

use hypern_shm_core as core;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use crate::argument::{Arg, Of};
use crate::errors::{raise, shown};
use crate::segment::{Segment, world};

/// Topic patterns of one namespace of a segment.
#[pyclass(frozen, subclass, module = "hypern_realtime_shm._engine")]
pub struct TopicMatcher {
    topics: core::Topics,
}

impl TopicMatcher {
    /// A manager's matcher as an instance of the public class.
    pub fn public(py: Python<'_>, topics: core::Topics) -> PyResult<Py<PyAny>> {
        let made = Py::new(py, TopicMatcher { topics })?;
        let class = py.import("hypern_realtime_shm.topics")?.getattr("TopicMatcher")?;
        Ok(class.call_method1("_of_manager", (made,))?.unbind())
    }
}

#[pymethods]
impl TopicMatcher {
    #[new]
    #[pyo3(signature = (segment=None, namespace=None, *, of=None))]
    fn new(
        segment: Option<Of<'_, '_, Segment>>,
        namespace: Option<Arg<&str>>,
        of: Option<Of<'_, '_, TopicMatcher>>,
    ) -> PyResult<TopicMatcher> {
        let topics = match (of, segment, namespace) {
            (Some(other), None, None) => other.get().topics.clone(),
            (None, Some(segment), Some(namespace)) => core::Topics::new(&world(&segment, &namespace)?, core::TopicsKind::Free),
            _ => return Err(PyTypeError::new_err("segment and namespace must be given, or `of`")),
        };
        Ok(TopicMatcher { topics })
    }

    /// Subscribes a client to a pattern.
    fn subscribe(&self, pattern: Arg<&str>, client_id: Arg<&str>) -> PyResult<()> {
        self.topics.subscribe(&pattern, &client_id).map_err(raise)
    }

    /// Ends a subscription. False: there was none.
    fn unsubscribe(&self, pattern: Arg<&str>, client_id: Arg<&str>) -> PyResult<bool> {
        self.topics.unsubscribe(&pattern, &client_id).map_err(raise)
    }

    /// Ends all subscriptions of a client; returns how many there were.
    fn unsubscribe_all(&self, client_id: Arg<&str>) -> PyResult<u64> {
        self.topics.unsubscribe_all(&client_id).map_err(raise)
    }

    /// The clients with a pattern that matches, each once.
    fn match_topic(&self, topic: Arg<&str>) -> PyResult<Vec<String>> {
        self.topics.match_topic(&topic).map_err(raise)
    }

    /// All patterns.
    fn patterns(&self) -> PyResult<Vec<String>> {
        self.topics.patterns().map_err(raise)
    }

    /// How many clients subscribed to a pattern.
    fn subscriber_count(&self, pattern: Arg<&str>) -> PyResult<u64> {
        self.topics.subscriber_count(&pattern).map_err(raise)
    }

    /// Does a pattern match a topic? `*` is exactly one segment, `#` zero or more.
    #[staticmethod]
    fn pattern_matches(pattern: Arg<&str>, topic: Arg<&str>) -> bool {
        core::pattern_matches(&pattern, &topic)
    }

    fn __repr__(&self) -> PyResult<String> {
        shown("TopicMatcher", self.topics.pattern_count().map(|patterns| format!("TopicMatcher(patterns={patterns})")))
    }
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<TopicMatcher>()
}
