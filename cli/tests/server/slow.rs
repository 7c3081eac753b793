//! Readers that do not read: a bounded buffer, then their end; others go on.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Server, greedy, streamed, with};

const PATH: &str = "/v1/completions";

#[test]
fn a_reader_that_does_not_read_is_ended_and_others_are_unaffected() {
    let server = Server::start(&["--patience", "3", "--slots", "2", "--queue", "0"]);
    let body = greedy("The borrow checker", 24);
    let alone = server.post(PATH, &body).said();
    // Events of some kilobytes each, more than all buffers hold.
    let large = with(
        streamed(greedy("Ownership is", 1000)),
        json!({"logprobs": 20}),
    );
    for reads_late in [true, false] {
        let before = server.metrics();
        let mut reader = server.begin(PATH, &large);
        let slow = before.get("slow_readers_total") + 1.0;
        while server.metrics().get("slow_readers_total") < slow {
            assert_eq!(server.post(PATH, &body).said(), alone);
        }
        // Its place is free, though its connection is there.
        assert!(server.until_idle() < Duration::from_secs(1));
        let both = with(body.clone(), json!({"n": 2}));
        assert_eq!(server.post(PATH, &both).status(), 200);
        assert_eq!(server.metrics().ended("abort"), before.ended("abort") + 1.0);
        if !reads_late {
            std::thread::sleep(Duration::from_secs(4));
        }
        let begun = Instant::now();
        let (rest, _) = reader.rest();
        assert!(begun.elapsed() < Duration::from_secs(5), "it stays open");
        let rest = String::from_utf8_lossy(&rest);
        assert!(!rest.contains("[DONE]"));
        // Who reads in time hears why; who does not is gone.
        assert_eq!(rest.contains("\"slow_reader\""), reads_late);
    }
    assert!(server.memory() < 1 << 30);
}
