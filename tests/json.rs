//! Configurations, ids, reports, plans and metrics are what they were after a way through JSON.

use std::fmt::Debug;

use balanceroute::policy::Parameters;
use balanceroute::router::Metrics;
use balanceroute::{
    Assigner, Assignment, Mode, Placement, Plan, Request, RequestId, Returned, Router, RouterConfig, Share,
    Step, Traffic, Verdict, WaitReason, Worker, WorkerConfig, WorkerId, WorkerIndex, WorkerReport,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Through JSON and back; the text.
fn round_trip<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) -> String {
    let text = serde_json::to_string(value).expect("written");
    assert_eq!(&serde_json::from_str::<T>(&text).expect("read"), value, "{text}");
    text
}

/// Fields that are not there have their defaults; where there is none they are missed.
#[test]
fn configurations_and_reports() {
    let config = RouterConfig::uniform(2, WorkerConfig::new(8).capacity(9_000).weight(1.5))
        .mode(Mode::Mixed { free_slots: 3 })
        .share(Share::new(1, 2))
        .dispatch_timeout_ms(500)
        .expire_after_ms(60_000);
    let text = round_trip(&config);
    assert!(text.contains(r#""mode":{"mixed":{"free_slots":3}}"#), "{text}");
    let read: RouterConfig =
        serde_json::from_str(r#"{"workers": [{"slots": 4}], "mode": "arrival"}"#).unwrap();
    assert_eq!(read, RouterConfig::new(1, 4).mode(Mode::Arrival));
    assert!(serde_json::from_str::<WorkerConfig>("{}").is_err());
    assert!(serde_json::from_str::<RouterConfig>(r#"{"mode": "never"}"#).is_err());

    round_trip(&WorkerReport::new(3, 900).sequence(7).last_dispatch(4).missing(0b101).capacity(2_000));
    round_trip(&Traffic::new().prompts(900, 300).small_prompts(80).outputs(200));
    round_trip(&Worker::new(900, 3, 1).capacity(4_000).draining().next_completion(9));
    round_trip(
        &Request::<WorkerIndex>::new(4, 100).waited(3).passed(4).deadline(9).hash(77).bound_to(2).class(1),
    );
    let request: Request<WorkerId> = serde_json::from_str(r#"{"id": 4, "prompt_tokens": 9}"#).unwrap();
    assert_eq!(request, Request::new(4, 9));
    for verdict in Verdict::ALL {
        assert_eq!(round_trip(&verdict), format!("\"{verdict}\""));
    }
    for reason in WaitReason::ALL {
        assert_eq!(round_trip(&reason), format!("\"{reason}\""));
    }
    assert_eq!(
        (round_trip(&RequestId(u64::MAX)), round_trip(&WorkerId(3))),
        (u64::MAX.to_string(), "3".into())
    );
}

#[test]
fn plans_metrics_and_assignments() {
    let config = RouterConfig::new(2, 1).expire_after_ms(50).mode(Mode::Arrival);
    let mut router = Router::new(config, "level", &Parameters::default()).unwrap();
    let placed = router.place(Request::new(1, 500), 0).unwrap();
    assert!(matches!(placed, Placement::Placed(_)));
    round_trip(&placed);
    for id in 2..6 {
        router.enqueue(Request::new(id, 100 * id as u32), 0).unwrap();
    }
    let plan: Plan = router.step(10).unwrap().clone();
    assert_eq!(plan.admissions.len(), 1);
    round_trip(&plan);
    let plan = router.step(60).unwrap();
    assert_eq!(plan.returned.len(), 3);
    let text = round_trip(plan);
    assert!(text.contains(r#""reason":"expired""#), "{text}");
    round_trip(&router.finish(1, 70).unwrap());
    let back: Vec<Returned> = router.recover();
    round_trip(&back);
    let mut metrics = Metrics::default();
    router.metrics(&mut metrics);
    assert!(metrics.counters.wait_ms.count() > 0);
    round_trip(&metrics);
    let mut value = serde_json::to_value(&metrics).unwrap();
    value["counters"]["wait_ms"]["buckets"] = serde_json::json!([1, 2]);
    assert!(serde_json::from_value::<Metrics>(value).is_err(), "a histogram has 40 buckets");

    let (workers, requests) = ([Worker::new(9, 1, 1)], [Request::new(5, 10), Request::new(6, 10)]);
    let mut assigner = Assigner::new("exact", &Parameters::default()).unwrap();
    let found: Assignment = assigner.assign(&Step::new(&workers, &requests)).unwrap().assignment().clone();
    assert_eq!(found.admitted.len(), 1);
    round_trip(&found);
}
