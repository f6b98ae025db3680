//! What is on the screen: loads of the workers, imbalance and pool over time, waits, and decisions with their
//! reasons.

use std::collections::VecDeque;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph, Sparkline};

use super::{Moment, Rank};
use crate::report::short;

/// Moments whose figures are drawn over time, the newest last.
const HISTORY: usize = 400;
/// Decisions that can be scrolled back to.
const DECISIONS: usize = 200;
/// Columns of a worker's row beside its bar.
const BESIDE_BAR: u16 = 62;

/// Everything that is shown.
#[derive(Debug, Default)]
pub struct View {
    /// What is looked at.
    pub heading: String,
    /// How fast it goes, or what is wrong.
    pub status: String,
    /// Whether the status is a failure.
    pub failed: bool,
    moment: Moment,
    imbalance: VecDeque<u64>,
    waiting: VecDeque<u64>,
    decisions: VecDeque<String>,
    /// The first worker that is shown.
    first: usize,
}

/// Without colours nothing is lost: what they say stands there in words or signs as well.
fn colour(colour: Color) -> Style {
    if std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) {
        Style::default()
    } else {
        Style::default().fg(colour)
    }
}

fn push<T>(history: &mut VecDeque<T>, value: T, most: usize) {
    if history.len() == most {
        history.pop_front();
    }
    history.push_back(value);
}

fn ms(of: Option<f64>) -> String {
    match of {
        None => "-".to_owned(),
        Some(ms) if ms >= 10_000.0 => format!("{:.0} s", ms / 1e3),
        Some(ms) => format!("{ms:.0} ms"),
    }
}

fn count(of: Option<u64>) -> String {
    of.map_or("-".to_owned(), |count| count.to_string())
}

fn pair(of: Option<(f64, f64)>, text: impl Fn(f64) -> String) -> String {
    of.map_or("-".to_owned(), |(median, p99)| format!("p50 {}, p99 {}", text(median), text(p99)))
}

impl View {
    /// Of something with this name.
    #[must_use]
    pub fn new(heading: String) -> Self {
        Self { heading, ..Self::default() }
    }

    /// How it is now, and what has been decided since.
    pub fn show(&mut self, moment: Moment, decisions: Vec<String>) {
        push(&mut self.imbalance, moment.imbalance_tokens() as u64, HISTORY);
        push(&mut self.waiting, moment.waiting, HISTORY);
        decisions.into_iter().for_each(|decision| push(&mut self.decisions, decision, DECISIONS));
        self.moment = moment;
    }

    /// Workers further down, or up.
    pub fn scroll(&mut self, by: isize) {
        let last = self.moment.ranks.len().saturating_sub(1);
        self.first = self.first.saturating_add_signed(by).min(last);
    }

    /// Draws all of it.
    pub fn draw(&self, frame: &mut Frame<'_>) {
        let [heading, body, keys] =
            Layout::vertical([Constraint::Length(2), Constraint::Min(6), Constraint::Length(1)])
                .areas(frame.area());
        let status = if self.failed { colour(Color::Red) } else { Style::default() };
        let lines = vec![
            Line::from(Span::styled(self.heading.as_str(), Style::default().add_modifier(Modifier::BOLD))),
            Line::from(vec![
                Span::raw(format!("{}  ", self.moment.at)),
                Span::styled(self.status.as_str(), status),
            ]),
        ];
        frame.render_widget(Paragraph::new(lines), heading);
        let rows = self.moment.ranks.len().max(1) as u16 + 2;
        let [ranks, rest] = Layout::vertical([Constraint::Max(rows), Constraint::Min(9)]).areas(body);
        let [over_time, decisions] =
            Layout::horizontal([Constraint::Percentage(45), Constraint::Percentage(55)]).areas(rest);
        self.ranks(frame, ranks);
        self.over_time(frame, over_time);
        self.decided(frame, decisions);
        let text = "q quit   space hold on   right one step   + faster   - slower   up, down workers";
        frame.render_widget(Paragraph::new(text).style(colour(Color::DarkGray)), keys);
    }

    fn ranks(&self, frame: &mut Frame<'_>, area: Rect) {
        let (envelope, imbalance) = (self.moment.envelope_tokens(), self.moment.imbalance_tokens());
        let title = format!(
            " KV tokens of {} workers: envelope {}, imbalance {} ",
            self.moment.ranks.len(),
            short(envelope),
            short(imbalance)
        );
        let block = Block::bordered().title(title);
        let inner = block.inner(area);
        let shown = self.moment.ranks.iter().skip(self.first).take(usize::from(inner.height));
        let width = usize::from(inner.width.saturating_sub(BESIDE_BAR).max(4));
        let lines: Vec<Line<'_>> = shown.map(|rank| row(rank, envelope, width)).collect();
        frame.render_widget(Paragraph::new(lines).block(block), area);
    }

    fn over_time(&self, frame: &mut Frame<'_>, area: Rect) {
        let [imbalance, waiting, figures] =
            Layout::vertical([Constraint::Fill(1), Constraint::Fill(1), Constraint::Length(7)]).areas(area);
        self.line(frame, imbalance, " imbalance, tokens ", &self.imbalance);
        self.line(frame, waiting, " waiting requests ", &self.waiting);
        let of = &self.moment;
        let reasons: Vec<String> =
            of.reasons.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        let lines = vec![
            Line::raw(format!("waiting {}  {}", of.waiting, reasons.join(", "))),
            Line::raw(format!("longest wait {}", ms(of.longest_wait_ms))),
            Line::raw(format!("waits {}", pair(of.wait_ms, |value| ms(Some(value))))),
            Line::raw(format!(
                "passed by {} at most; admitted {}",
                count(of.most_passed),
                count(of.admitted)
            )),
            Line::raw(format!("decision {}", pair(of.decide_us, |us| format!("{us:.0} us")))),
        ];
        let block = Block::bordered().title(" waits ");
        frame.render_widget(Paragraph::new(lines).block(block), figures);
    }

    fn line(&self, frame: &mut Frame<'_>, area: Rect, title: &str, history: &VecDeque<u64>) {
        let most = history.iter().copied().max().unwrap_or(0);
        let block = Block::bordered().title(format!("{title}(up to {}) ", short(most as f64)));
        let width = usize::from(block.inner(area).width);
        let newest: Vec<u64> = history.iter().copied().skip(history.len().saturating_sub(width)).collect();
        let sparkline = Sparkline::default().block(block).data(&newest).max(most.max(1));
        frame.render_widget(sparkline.style(colour(Color::Cyan)), area);
    }

    fn decided(&self, frame: &mut Frame<'_>, area: Rect) {
        let block = Block::bordered().title(" decisions, the newest first; tokens below the envelope ");
        let height = usize::from(block.inner(area).height);
        let lines: Vec<Line<'_>> =
            self.decisions.iter().rev().take(height).map(|decision| Line::raw(decision.as_str())).collect();
        frame.render_widget(Paragraph::new(lines).block(block), area);
    }
}

/// `  3 ########........  61.2k  -812  71 of 72   KV 24 %  claimed`
fn row(rank: &Rank, envelope: f64, width: usize) -> Line<'static> {
    let share = if envelope > 0.0 { rank.load_tokens / envelope } else { 0.0 };
    let full = (share * width as f64).round() as usize;
    let bar = format!("{}{}", "#".repeat(full.min(width)), ".".repeat(width.saturating_sub(full)));
    let below = envelope - rank.load_tokens;
    let style = if below <= 0.0 { colour(Color::Yellow) } else { colour(Color::Green) };
    let kv = match rank.kv_tokens {
        Some((used, fit)) if fit > 0.0 => format!("  KV {:.0} %", 100.0 * used / fit),
        _ => String::new(),
    };
    let state = match (rank.accepting, rank.claimed) {
        (false, _) => "  takes nobody",
        (true, true) => "  claimed",
        (true, false) => "",
    };
    let below = if below > 0.0 { format!("-{}", short(below)) } else { "fullest".to_owned() };
    Line::from(vec![
        Span::raw(format!("{:>4} ", rank.worker)),
        Span::styled(bar, style),
        Span::raw(format!(
            " {:>6} {below:>8}  {} run, {} free{kv}{state}",
            short(rank.load_tokens),
            rank.running,
            rank.free_slots
        )),
    ])
}
