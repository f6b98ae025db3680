//! What a page is put together from.

use super::*;

#[test]
fn numbers_on_axes_are_short() {
    for (value, text) in
        [(0.0, "0"), (500.0, "500"), (15_000.0, "15k"), (1_250_000.0, "1.25M"), (-2e3, "-2k")]
    {
        assert_eq!(amount(value), text);
    }
    for (ms, text) in [(0.1, "0.1 ms"), (30.000_000_01, "30 ms"), (1_000.000_001, "1 s"), (2_500.0, "2.5 s")]
    {
        assert_eq!(milliseconds(ms), text);
    }
    assert_eq!(percent_of(99.999_999_9), "100 %");
    assert_eq!(
        [60.0, 200.0, 8_000.0, 2e5].map(|span_s| time_unit(span_s).0),
        ["seconds", "minutes", "hours", "days"]
    );
}

fn section_of(chapters: Vec<Chapter>) -> Section {
    Section {
        id: "e1".to_owned(),
        letter: String::new(),
        name: "here".to_owned(),
        command: "balanceroute evaluate".to_owned(),
        version: "0".to_owned(),
        started: String::new(),
        elapsed: String::new(),
        interrupted: None,
        verdict: Vec::new(),
        gates: Vec::new(),
        chapters,
        asked: Vec::new(),
    }
}

fn chapter(id: &str, parts: &[(&str, u8)]) -> Chapter {
    let figure = || Figure::new("a figure", "x".repeat(1_000), "", "");
    let part = |&(title, leaves): &(&str, u8)| Part { figures: vec![figure()], ..Part::of(title, leaves) };
    Chapter {
        id: id.to_owned(),
        name: id.to_owned(),
        parts: parts.iter().map(part).collect(),
        left_out: Vec::new(),
    }
}

#[test]
fn what_matters_least_leaves_first_from_the_last_cluster() {
    let parts = [("rates", 0), ("maps", 6), ("lanes", 4)];
    let mut sections = vec![section_of(vec![chapter("one", &parts), chapter("two", &parts)])];
    let left = |sections: &[Section]| -> Vec<Vec<String>> {
        sections[0].chapters.iter().map(|chapter| chapter.left_out.clone()).collect()
    };
    assert!(leave_out(&mut sections, 0));
    assert_eq!(left(&sections), [vec![], vec!["maps"]]);
    assert!(leave_out(&mut sections, 2_000));
    assert_eq!(left(&sections), [vec!["maps"], vec!["maps", "lanes"]]);
    assert!(leave_out(&mut sections, usize::MAX));
    assert!(sections[0].chapters.iter().all(|chapter| chapter.parts.is_empty()));
    assert!(!leave_out(&mut sections, 0), "nothing is left to leave");
    let page = Page {
        title: "a < b".to_owned(),
        command: "balanceroute report here".to_owned(),
        version: "0",
        comparisons: Vec::new(),
        sections,
    };
    let html = render(&page).expect("a page");
    assert!(html.contains("stays below 1 MB: maps, lanes, rates."), "{html}");
    assert!(html.contains("<title>BalanceRoute: a &lt; b</title>"));
}
