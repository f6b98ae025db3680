//! A subscriber sees steps, returned requests, workers that change and refused calls.

use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use balanceroute::policy::Parameters;
use balanceroute::{Request, Router, RouterConfig};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Writes every span and event down as a line.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    fn add(&self, line: String) {
        self.0.lock().unwrap().push(line);
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0 += &format!(" {}={value:?}", field.name());
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "balanceroute"
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut fields = Fields(format!("{}:", span.metadata().name()));
        span.record(&mut fields);
        self.add(fields.0);
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, values: &Record<'_>) {
        let mut fields = Fields("recorded:".to_owned());
        values.record(&mut fields);
        self.add(fields.0);
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields(event.metadata().level().to_string());
        event.record(&mut fields);
        self.add(fields.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {
        self.add("left".to_owned());
    }
}

#[test]
fn a_subscriber_sees_what_happens() {
    let lines = Lines::default();
    tracing::subscriber::with_default(lines.clone(), || {
        let config = RouterConfig::new(2, 1).expire_after_ms(100);
        let mut router = Router::new(config, "level", &Parameters::default()).unwrap();
        for id in 1..=3 {
            router.enqueue(Request::new(id, 100), 0).unwrap();
        }
        assert_eq!(lines.take(), [""; 0]);

        router.step(10).unwrap();
        let found = lines.take();
        assert_eq!(found[0], "step: policy=\"level\" waiting=3 workers=2");
        assert_eq!(found[1..3], ["recorded: admitted=2", "recorded: returned=0"]);
        assert!(
            found[3].starts_with("DEBUG message=decided admitted=2 returned=0 envelope_tokens=100"),
            "{found:?}"
        );
        assert_eq!(found[4..], ["left"]);

        // The one that is left expires.
        router.step(200).unwrap();
        let found = lines.take();
        let expired = "INFO message=returned request=3 reason=\"expired\" generated_tokens=0";
        assert!(found.iter().any(|line| line == expired), "{found:?}");

        assert!(router.finish(9, None).is_err());
        assert!(router.drain_worker(7).is_err());
        let refused = [
            "WARN message=refused call=\"finish\" error=request 9 neither waits nor runs",
            "WARN message=refused call=\"drain_worker\" error=no worker has id 7 (2 workers are here)",
        ];
        assert_eq!(lines.take(), refused);

        router.drain_worker(0).unwrap();
        router.set_accepting(0, true).unwrap();
        router.remove_worker(0, &mut Vec::new()).unwrap();
        let found = lines.take();
        assert_eq!(found[0], "INFO message=worker worker=0 change=\"drains\"");
        assert_eq!(found[1], "INFO message=worker worker=0 change=\"opens\"");
        assert_eq!(found[2], "INFO message=worker worker=0 change=\"leaves\"");
        assert!(found[3].contains("worker=0 reason=\"worker_removed\""), "{found:?}");
        assert_eq!(found.len(), 4);
    });
}
