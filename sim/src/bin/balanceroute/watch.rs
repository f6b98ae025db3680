//! `watch`: a cluster live in the terminal.

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use balanceroute_sim::live::{Control, Message, Scraper, View, play};
use balanceroute_sim::{Arrivals, Scenario, SimError};
use clap::Args;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::{DefaultTerminal, Terminal, backend::TestBackend};

use crate::arguments::ScenarioArgs;
use crate::{print, tell};

/// Between two looks at the keyboard.
const LOOK: Duration = Duration::from_millis(40);
/// More steps than anybody watches.
const ENDLESS_STEPS: u64 = 1 << 40;
/// The screen of `--frames`.
const COLUMNS: u16 = 110;
const LINES: u16 = 32;

#[derive(Args)]
pub(crate) struct WatchArgs {
    /// Metrics page of a router's process, http://HOST:PORT/metrics, no TLS: that of the Python package, or
    /// an engine's with the series of the plug-in. Without one a simulation is watched.
    #[arg(value_name = "URL")]
    url: Option<String>,
    /// Seconds between two looks at the page.
    #[arg(long, default_value_t = 1.0, value_name = "S", allow_negative_numbers = true)]
    every_s: f64,
    /// What the names of the series begin with.
    #[arg(long, default_value = "balanceroute", value_name = "P")]
    prefix: String,
    /// Steps of the simulation a second; + and - double and halve them.
    #[arg(long, default_value_t = 30.0, value_name = "N", allow_negative_numbers = true)]
    steps_per_s: f64,
    /// Print so many moments as text and end [default: the screen, until somebody ends it].
    #[arg(long, value_name = "N")]
    frames: Option<u64>,
    #[command(flatten)]
    of: ScenarioArgs,
}

/// Something that tells how it goes, on a thread of its own.
struct Source {
    told: Receiver<Message>,
    thread: JoinHandle<Result<(), SimError>>,
    is_simulation: bool,
}

fn positive(name: &'static str, value: f64) -> Result<f64, SimError> {
    let sound = value.is_finite() && value > 0.0;
    let refused = || SimError::Argument { name, expected: "above 0".to_owned(), found: value.to_string() };
    if sound { Ok(value) } else { Err(refused()) }
}

/// Asks until somebody ends it.
fn ask(mut scraper: Scraper, every: Duration, control: &Control, tell: &SyncSender<Message>) {
    while !control.stops() {
        let begun = Instant::now();
        let message = match scraper.ask() {
            Ok(moment) => Message::Moment(Box::new(moment), Vec::new()),
            Err(error) => Message::Failed(error),
        };
        if tell.send(message).is_err() {
            return;
        }
        while begun.elapsed() < every && !control.stops() {
            thread::sleep(LOOK.min(every));
        }
    }
}

impl WatchArgs {
    fn scenario(&self) -> Result<Scenario, SimError> {
        let mut scenario = self.of.scenario()?;
        // One is watched: level, unless another is named.
        scenario.policies = match self.of.policy() {
            [] => vec!["level".to_owned()],
            [name] => vec![name.clone()],
            names => {
                let (expected, found) = ("one policy to watch".to_owned(), names.join(","));
                return Err(SimError::Argument { name: "policy", expected, found });
            }
        };
        // A pool that is kept full goes on until somebody ends it, unless steps are asked for.
        let endless = (scenario.arrivals == Arrivals::Closed).then_some(ENDLESS_STEPS);
        scenario.steps = self.of.steps().or(endless);
        scenario.warmup = 0;
        scenario.check()?;
        Ok(scenario)
    }

    fn begin(&self, control: &Arc<Control>) -> Result<(Source, String), SimError> {
        // A source that is ahead of the screen by one moment is far enough.
        let (tell, told) = sync_channel(1);
        let control = Arc::clone(control);
        if let Some(url) = &self.url {
            let every = Duration::from_secs_f64(positive("every-s", self.every_s)?);
            let scraper = Scraper::new(url, &self.prefix);
            let thread = thread::spawn(move || {
                ask(scraper, every, &control, &tell);
                Ok(())
            });
            return Ok((Source { told, thread, is_simulation: false }, url.clone()));
        }
        let scenario = self.scenario()?;
        let Scenario { workers, slots, .. } = scenario;
        let (name, policy) = (scenario.source.name(), &scenario.policies[0]);
        let heading = format!("{name} on {workers} workers x {slots} slots under {policy}");
        let thread = thread::spawn(move || play(&scenario, &control, &tell));
        Ok((Source { told, thread, is_simulation: true }, heading))
    }
}

/// What has been told is shown; false once nothing more comes.
fn take_in(view: &mut View, told: Result<Message, TryRecvError>) -> bool {
    match told {
        Ok(Message::Moment(moment, decisions)) => {
            view.failed = false;
            view.show(*moment, decisions);
        }
        Ok(Message::Failed(error)) => (view.failed, view.status) = (true, error),
        Ok(Message::Over(why)) => {
            view.status = why;
            return false;
        }
        Err(TryRecvError::Empty) => {}
        // Who ends without a word has failed, and says so once the screen is gone.
        Err(TryRecvError::Disconnected) => {
            view.status = "the run has failed".to_owned();
            return false;
        }
    }
    true
}

fn pace(control: &Control) -> String {
    match (control.is_paused(), control.steps_per_s()) {
        (true, _) => "holds on".to_owned(),
        (false, Some(steps)) => format!("{steps:.0} steps a second"),
        (false, None) => "as fast as it goes".to_owned(),
    }
}

/// What a key asks for; false to end.
fn obey(code: KeyCode, modifiers: KeyModifiers, control: &Control, view: &mut View) -> bool {
    match code {
        KeyCode::Char('q') | KeyCode::Esc => return false,
        KeyCode::Char('c') if modifiers.contains(KeyModifiers::CONTROL) => return false,
        KeyCode::Char(' ') => control.pause(),
        KeyCode::Right => control.step(),
        KeyCode::Char('+' | '=') => control.faster(),
        KeyCode::Char('-') => control.slower(),
        KeyCode::Up => view.scroll(-1),
        KeyCode::Down => view.scroll(1),
        _ => {}
    }
    true
}

fn on_screen(
    terminal: &mut DefaultTerminal,
    view: &mut View,
    source: &Source,
    control: &Control,
) -> io::Result<()> {
    let mut goes_on = true;
    loop {
        if goes_on {
            if source.is_simulation {
                view.status = pace(control);
            }
            goes_on = take_in(view, source.told.try_recv());
        }
        terminal.draw(|frame| view.draw(frame))?;
        if event::poll(LOOK)?
            && let Event::Key(key) = event::read()?
            && key.kind == KeyEventKind::Press
            && !obey(key.code, key.modifiers, control, view)
        {
            return Ok(());
        }
    }
}

/// So many moments as text, one below the other.
fn as_text(view: &mut View, source: &Source, frames: u64) -> Result<ExitCode, SimError> {
    let stdout = |source| SimError::Stdout { source };
    let Ok(mut terminal) = Terminal::new(TestBackend::new(COLUMNS, LINES));
    for _ in 0..frames {
        let told = source.told.recv().map_err(|_| TryRecvError::Disconnected);
        if let Ok(Message::Failed(error)) = &told {
            tell(format_args!("error: {error}"));
            return Ok(ExitCode::FAILURE);
        }
        if !take_in(view, told) {
            break;
        }
        let Ok(drawn) = terminal.draw(|frame| view.draw(frame));
        let line = |y: u16| (0..COLUMNS).map(|x| drawn.buffer[(x, y)].symbol()).collect::<String>();
        let lines: Vec<String> = (0..LINES).map(|y| line(y).trim_end().to_owned() + "\n").collect();
        print(&lines.concat())?;
    }
    io::Write::flush(&mut io::stdout()).map_err(stdout)?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn run(args: &WatchArgs) -> Result<ExitCode, SimError> {
    if args.frames == Some(0) {
        return Err(SimError::Argument {
            name: "frames",
            expected: "at least 1".to_owned(),
            found: "0".to_owned(),
        });
    }
    let control = Arc::new(Control::new(positive("steps-per-s", args.steps_per_s)?));
    if args.frames.is_none() && !io::stdout().is_terminal() {
        return Err(SimError::Argument {
            name: "watch",
            expected: "a terminal, or --frames N for text".to_owned(),
            found: "standard output that is none".to_owned(),
        });
    }
    let (source, heading) = args.begin(&control)?;
    let mut view = View::new(heading);
    let shown = match args.frames {
        Some(frames) => as_text(&mut view, &source, frames),
        None => {
            let mut terminal = ratatui::init();
            let shown = on_screen(&mut terminal, &mut view, &source, &control);
            ratatui::restore();
            shown.map(|()| ExitCode::SUCCESS).map_err(|source| SimError::Stdout { source })
        }
    };
    control.stop();
    drop(source.told);
    match source.thread.join() {
        Ok(ended) => ended?,
        Err(_) => tell("warning: the simulation has ended in a panic"),
    }
    shown
}
