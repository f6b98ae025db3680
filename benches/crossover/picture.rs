//! The crossover as SVG: one decision against its work, and groups of batches against their number.
//!
//! Colours are of middle brightness on no background, so that the picture reads on light and dark pages.

use std::error::Error;

use plotters::backend::SVGBackend;
use plotters::chart::ChartBuilder;
use plotters::coord::Shift;
use plotters::drawing::{DrawingArea, IntoDrawingArea};
use plotters::element::{Circle, PathElement, Text};
use plotters::prelude::IntoLogRange;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, FontStyle, IntoFont, RGBColor, TextStyle};

use crate::measure::{Decision, Group, Kind};
use crate::sheet::{LAUNCH_US, Shape};

const PANEL: (u32, u32) = (480, 350);
const LEGEND_HEIGHT: u32 = 34;
const TITLE_HEIGHT: u32 = 34;

const TEXT: RGBColor = RGBColor(125, 133, 144);
const PAIRS: RGBColor = RGBColor(64, 138, 212);
const PLAIN: RGBColor = RGBColor(52, 158, 108);
const SHORT: RGBColor = RGBColor(230, 110, 36);
const LONG: RGBColor = RGBColor(192, 84, 160);

const PLAIN_DEVICE: RGBColor = RGBColor(150, 126, 60);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn Error>>;

/// What a panel shows: colour and points, in microseconds.
type Series = (RGBColor, Vec<(f64, f64)>);

struct Panel {
    title: String,
    x: &'static str,
    y: &'static str,
    series: Vec<Series>,
    /// Points, not lines: time depends on more than what is to the right.
    marked: bool,
}

pub(crate) fn svg(decisions: &[Decision], groups: &[[Group; 2]]) -> Result<String, Box<dyn Error>> {
    let mut panels = vec![single("8 free slots", decisions, true), single("one slot each", decisions, false)];
    panels.extend(groups.iter().filter(|[group, _]| group.shape.k > 8).map(together));
    let mut document = String::new();
    draw(&panels, &mut document)?;
    Ok(document)
}

/// One decision, by its work.
fn single(title: &str, decisions: &[Decision], few: bool) -> Panel {
    let line = |kind: Kind, us: &dyn Fn(&Decision) -> f64| {
        let shown = decisions.iter().filter(|one| one.kind == kind && (one.shape.k == 8) == few);
        let work = |Shape { n, g, h, k }: Shape| (n * if few { k } else { g } * (h + 1)) as f64;
        let mut points: Vec<(f64, f64)> = shown.map(|one| (work(one.shape), us(one))).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        points
    };
    Panel {
        title: format!("One decision, {title}"),
        x: "waiting x open workers x steps",
        y: "us",
        series: vec![
            (PLAIN_DEVICE, line(Kind::Plain, &|one| one.device(LAUNCH_US[0]))),
            (PLAIN, line(Kind::Plain, &|one| one.cpu)),
            (LONG, line(Kind::Pairs, &|one| one.device(LAUNCH_US[1]))),
            (SHORT, line(Kind::Pairs, &|one| one.device(LAUNCH_US[0]))),
            (PAIRS, line(Kind::Pairs, &|one| one.cpu)),
        ],
        marked: true,
    }
}

/// Many batches in one launch, by their number.
fn together([group, plain]: &[Group; 2]) -> Panel {
    let Shape { n, g, h, .. } = group.shape;
    let line = |us: &dyn Fn(usize) -> f64| (1..=400).map(|at| (at as f64, us(at))).collect::<Vec<_>>();
    Panel {
        title: format!("Batches in one launch, {n} x {g}, H = {h}, one slot each"),
        x: "batches",
        y: "us a batch",
        series: vec![
            (PLAIN, line(&|_| plain.cpu)),
            (PAIRS, line(&|_| group.cpu)),
            (LONG, line(&|at| group.device(at, LAUNCH_US[1]))),
            (SHORT, line(&|at| group.device(at, LAUNCH_US[0]))),
            (PLAIN_DEVICE, line(&|at| plain.device(at, LAUNCH_US[0]))),
        ],
        marked: false,
    }
}

fn text(size: u32, bold: bool, at: HPos) -> TextStyle<'static> {
    let style = if bold { FontStyle::Bold } else { FontStyle::Normal };
    let font = ("sans-serif", size).into_font().style(style);
    TextStyle::from(font).color(&TEXT).pos(Pos::new(at, VPos::Center))
}

fn draw(panels: &[Panel], document: &mut String) -> Drawn {
    let rows = panels.len().div_ceil(2) as u32;
    let size = (2 * PANEL.0, rows * PANEL.1 + LEGEND_HEIGHT);
    let root = SVGBackend::with_string(document, size).into_drawing_area();
    let (legend, below) = root.split_vertically(LEGEND_HEIGHT);
    draw_legend(&legend)?;
    for (panel, area) in panels.iter().zip(below.split_evenly((rows as usize, 2))) {
        draw_panel(panel, &area)?;
    }
    root.present()?;
    Ok(())
}

fn draw_legend(area: &Area<'_>) -> Drawn {
    let entries = [
        (PAIRS, "CPU (measured)", 110),
        (PLAIN, "CPU, no terms per pair", 155),
        (SHORT, "device, launch 20 us (computed)", 215),
        (LONG, "31 us", 45),
        (PLAIN_DEVICE, "device, no terms per pair, 20 us", 230),
    ];
    let middle = LEGEND_HEIGHT as i32 / 2;
    let mut x = 12;
    for (colour, words, width) in entries {
        area.draw(&PathElement::new(vec![(x, middle), (x + 22, middle)], colour.stroke_width(3)))?;
        area.draw(&Text::new(words, (x + 30, middle), text(14, false, HPos::Left)))?;
        x += width + 20;
    }
    Ok(())
}

fn draw_panel(panel: &Panel, area: &Area<'_>) -> Drawn {
    let (title, plot) = area.split_vertically(TITLE_HEIGHT);
    let middle = PANEL.0 as i32 / 2 + 30;
    title.draw(&Text::new(&*panel.title, (middle, 16), text(15, true, HPos::Center)))?;
    let all = || panel.series.iter().flat_map(|(_, points)| points.iter().copied());
    let least = |of: fn((f64, f64)) -> f64| all().map(of).fold(f64::MAX, f64::min);
    let most = |of: fn((f64, f64)) -> f64| all().map(of).fold(1.0, f64::max);
    let (x, y) = ((least(|at| at.0), most(|at| at.0)), (least(|at| at.1), most(|at| at.1)));
    let mut chart = ChartBuilder::on(&plot)
        .x_label_area_size(44)
        .y_label_area_size(66)
        .margin_left(10)
        .margin_right(16)
        .margin_bottom(8)
        .build_cartesian_2d((x.0 * 0.8..x.1 * 1.25).log_scale(), decades(y).log_scale())?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(6)
        .y_labels(8)
        .light_line_style(TEXT.mix(0.0))
        .bold_line_style(TEXT.mix(0.25))
        .axis_style(TEXT.mix(0.6))
        .label_style(text(13, false, HPos::Left))
        .axis_desc_style(text(13, false, HPos::Center))
        .x_label_formatter(&|value| short(*value))
        .y_label_formatter(&|value| short(*value))
        .x_desc(panel.x)
        .y_desc(panel.y)
        .draw()?;
    for (colour, points) in &panel.series {
        if panel.marked {
            chart.draw_series(points.iter().map(|&at| Circle::new(at, 4, colour.filled())))?;
        } else {
            chart.draw_series([PathElement::new(points.clone(), colour.stroke_width(2))])?;
        }
    }
    Ok(())
}

/// Whole powers of ten around a range, so that every axis has labels.
fn decades((least, most): (f64, f64)) -> std::ops::Range<f64> {
    10f64.powf(least.log10().floor())..10f64.powf(most.log10().ceil())
}

/// A number of an axis.
fn short(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{:.0}M", value / 1e6),
        value if value >= 1e3 => format!("{:.0}k", value / 1e3),
        value if value >= 10.0 => format!("{value:.0}"),
        value => format!("{value:.1}"),
    }
}
