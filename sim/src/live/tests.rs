//! What is on the screen, and that what is told of a run and read of a page is so.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::*;
use crate::cluster::Scenario;

/// What the screen shows, line by line.
fn screen(view: &View, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a buffer");
    terminal.draw(|frame| view.draw(frame)).expect("drawn");
    let buffer = terminal.backend().buffer().clone();
    let line = |y: u16| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    (0..height).map(|y| line(y).trim_end().to_owned()).collect()
}

fn moment(loads: &[f64]) -> Moment {
    let rank = |(at, &load_tokens): (usize, &f64)| Rank {
        worker: at.to_string(),
        load_tokens,
        running: 7,
        free_slots: 1,
        kv_tokens: (at == 0).then_some((250.0, 1_000.0)),
        accepting: at != 1,
        claimed: at == 2,
    };
    Moment {
        at: "step 12, 0.4 s".to_owned(),
        ranks: loads.iter().enumerate().map(rank).collect(),
        waiting: 9,
        reasons: vec![("no_slot".to_owned(), 8), ("claims".to_owned(), 1)],
        longest_wait_ms: Some(12_345.0),
        wait_ms: Some((31.0, 511.0)),
        most_passed: Some(44),
        admitted: Some(1_000),
        decide_us: Some((1.0, 2.0)),
    }
}

#[test]
fn the_screen_has_every_worker_its_load_and_what_waits() {
    let mut view = View::new("paper-prod under level".to_owned());
    view.status = "30 steps a second".to_owned();
    view.show(moment(&[40_000.0, 20_000.0, 40_000.0]), vec!["17 -> worker 0".to_owned()]);
    let shown = screen(&view, 110, 24);
    assert_eq!(shown[0], "paper-prod under level");
    assert_eq!(shown[1], "step 12, 0.4 s  30 steps a second");
    assert!(shown[2].contains("KV tokens of 3 workers: envelope 40.0k, imbalance 20.0k"), "{}", shown[2]);
    let bar = |line: &str| line.matches('#').count();
    assert_eq!(bar(&shown[3]), 2 * bar(&shown[4]));
    assert!(shown[3].contains("fullest  7 run, 1 free  KV 25 %"), "{}", shown[3]);
    assert!(shown[4].contains("-20.0k") && shown[4].contains("takes nobody"), "{}", shown[4]);
    assert!(shown[5].contains("claimed"), "{}", shown[5]);
    let all = shown.join("\n");
    for part in ["waiting 9  no_slot 8, claims 1", "longest wait 12 s", "p99 511 ms", "17 -> worker 0"] {
        assert!(all.contains(part), "{part}: {all}");
    }
    assert!(shown[23].starts_with("q quit"));
}

#[test]
fn a_small_screen_and_many_workers_are_no_failure() {
    let mut view = View::new("many".to_owned());
    screen(&view, 80, 24);
    view.show(moment(&[1.0; 144]), Vec::new());
    for (width, height) in [(1, 1), (20, 5), (60, 12), (200, 50)] {
        screen(&view, width, height);
    }
    view.scroll(140);
    let shown = screen(&view, 100, 24);
    assert!(shown[3].trim_start_matches(['│', ' ']).starts_with("140 "), "{}", shown[3]);
    view.scroll(100);
    view.scroll(-1_000);
    assert!(screen(&view, 100, 24)[3].trim_start_matches(['│', ' ']).starts_with("0 "));
}

#[test]
fn a_simulation_is_told_step_by_step_with_its_reasons() {
    let scenario = Scenario {
        workers: 3,
        slots: 8,
        pool: 6,
        policies: vec!["level".to_owned()],
        steps: Some(300),
        warmup: 0,
        cold_start: true,
        ..Scenario::default()
    };
    let control = Arc::new(Control::new(1e9));
    let (tell, told) = sync_channel(10_000);
    play(&scenario, &control, &tell).expect("it ends");
    let told: Vec<Message> = told.try_iter().collect();
    assert!(matches!(told.last(), Some(Message::Over(_))));
    let mut lines = Vec::new();
    let mut moments = Vec::new();
    for message in told {
        if let Message::Moment(moment, decisions) = message {
            lines.extend(decisions);
            moments.push(*moment);
        }
    }
    assert_eq!((moments.len(), moments[299].ranks.len(), moments[299].waiting), (300, 3, 6));
    assert!(moments[299].at.starts_with("step 299, "), "{}", moments[299].at);
    assert_eq!(moments[299].admitted, Some(lines.len() as u64));
    assert!(lines.iter().any(|line| line.contains(" below; before worker ")), "{lines:?}");
}

#[test]
fn who_looks_on_holds_it_and_ends_it() {
    let control = Arc::new(Control::new(1e9));
    control.pause();
    let (tell, told) = sync_channel(1_000);
    let scenario = Scenario { policies: vec!["jsq".to_owned()], steps: Some(1 << 40), ..Scenario::default() };
    let playing = Arc::clone(&control);
    let played = std::thread::spawn(move || play(&scenario, &playing, &tell));
    let next = || told.recv_timeout(Duration::from_secs(20));
    assert!(matches!(next(), Ok(Message::Moment(moment, _)) if moment.at.starts_with("step 0,")));
    assert!(told.recv_timeout(Duration::from_millis(100)).is_err(), "it holds on");
    control.step();
    assert!(matches!(next(), Ok(Message::Moment(moment, _)) if moment.at.starts_with("step 1,")));
    control.stop();
    played.join().expect("no panic").expect("stopped");
}

#[test]
fn speed_is_doubled_and_halved_within_its_bounds() {
    let control = Control::new(30.0);
    control.faster();
    assert_eq!(control.steps_per_s().map(f64::round), Some(60.0));
    (0..30).for_each(|_| control.faster());
    assert_eq!(control.steps_per_s(), None);
    (0..40).for_each(|_| control.slower());
    assert_eq!(control.steps_per_s(), Some(1.0));
}

const PAGE: &str = "\
# TYPE balanceroute_worker_load_tokens gauge
balanceroute_worker_load_tokens{worker=\"10\"} 400
balanceroute_worker_load_tokens{worker=\"2\"} 1000
balanceroute_worker_running_requests{worker=\"2\"} 3
balanceroute_worker_free_slots{worker=\"2\"} 5
balanceroute_worker_kv_used_tokens{worker=\"2\"} 1200
balanceroute_worker_kv_capacity_tokens{worker=\"2\"} 4800
balanceroute_worker_accepting{worker=\"10\"} 0
balanceroute_waiting_requests{reason=\"no_slot\"} 4
balanceroute_waiting_requests{reason=\"claims\"} 0
balanceroute_longest_wait_seconds 0.25
balanceroute_most_passed_waiting 17
balanceroute_decisions_total{by=\"step\"} 30
balanceroute_decisions_total{by=\"arrival\"} 2
# TYPE balanceroute_wait_seconds histogram
balanceroute_wait_seconds_bucket{le=\"0.001\"} 50
balanceroute_wait_seconds_bucket{le=\"0.128\"} 100
balanceroute_wait_seconds_bucket{le=\"+Inf\"} 100
balanceroute_wait_seconds_sum 3.5
balanceroute_wait_seconds_count 100
other_metric 3
";

#[test]
fn a_metrics_page_is_read() {
    let mut scraper = Scraper::new("http://there/metrics", "balanceroute");
    let moment = scraper.read(PAGE).expect("a page");
    let [second, tenth] = &moment.ranks[..] else { panic!("{moment:?}") };
    assert_eq!((second.worker.as_str(), second.load_tokens, second.running), ("2", 1000.0, 3));
    assert_eq!((second.free_slots, second.kv_tokens), (5, Some((1_200.0, 4_800.0))));
    assert!(second.accepting && !tenth.accepting && tenth.kv_tokens.is_none());
    assert_eq!(moment.imbalance_tokens(), 600.0);
    assert_eq!((moment.waiting, moment.admitted, moment.most_passed), (4, Some(32), Some(17)));
    assert_eq!(moment.reasons, [("no_slot".to_owned(), 4)]);
    assert_eq!((moment.longest_wait_ms, moment.wait_ms), (Some(250.0), Some((1.0, 128.0))));
    // The next time only what is new counts.
    let later = PAGE
        .replace("le=\"0.128\"} 100", "le=\"0.128\"} 110")
        .replace("le=\"+Inf\"} 100", "le=\"+Inf\"} 110");
    assert_eq!(scraper.read(&later).expect("a page").wait_ms, Some((128.0, 128.0)));
}

#[test]
fn the_page_of_an_engine_with_the_plug_in_is_read_as_well() {
    let page = "balanceroute_load_tokens{worker=\"0\"} 5\nbalanceroute_held_requests 3\n";
    let moment = Scraper::new("", "balanceroute").read(page).expect("a page");
    assert_eq!((moment.ranks.len(), moment.ranks[0].load_tokens, moment.waiting), (1, 5.0, 3));
    assert_eq!((moment.wait_ms, moment.longest_wait_ms, moment.admitted), (None, None, None));
}

#[test]
fn what_is_no_page_of_a_router_is_said() {
    let refused = |page: &str| Scraper::new("URL", "balanceroute").read(page).expect_err("refused");
    let found =
        "URL: expected the series balanceroute_worker_load_tokens or balanceroute_load_tokens of workers";
    assert!(refused("up 1\n").starts_with(found));
    assert!(refused("").starts_with(found));
    let nobody = Scraper::new("http://127.0.0.1:1/metrics", "balanceroute").ask().expect_err("refused");
    assert!(nobody.starts_with("http://127.0.0.1:1/metrics: "), "{nobody}");
}
