//! Events as lines of JSON on standard output, each with the time at which it was seen.

use std::io::Write;

use serde::Serialize;

use crate::{
    clock,
    events::{Event, Sink},
};

#[derive(Serialize)]
struct Line<'a> {
    at: String,
    #[serde(flatten)]
    event: &'a Event,
}

/// The line of an event, with its line feed.
pub fn line(at_ms: i64, event: &Event) -> String {
    let line = Line { at: clock::rfc3339(at_ms), event };
    serde_json::to_string(&line).map(|text| text + "\n").unwrap_or_default()
}

/// Prints each event as it comes.
pub struct JsonLines;

impl Sink for JsonLines {
    fn event(&self, event: &Event) {
        // A closed reader does not stop the run.
        let _ = std::io::stdout().lock().write_all(line(clock::now_ms(), event).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_with_its_time() {
        let text = line(1_795_894_812_500, &Event::note("a\nb"));
        assert_eq!(text, "{\"at\":\"2026-11-28T19:40:12.5Z\",\"event\":\"note\",\"level\":\"info\",\"text\":\"a\\nb\"}\n");
    }
}
