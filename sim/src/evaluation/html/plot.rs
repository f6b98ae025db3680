//! One panel as inline SVG: axes by plotters, marks with classes that the page's style colours.
//!
//! An SVG file has its colours in itself; this one takes those of the page, for light, dark and paper. A
//! series is told by colour, by dashes and by the shape of its points.

use std::fmt::Write as _;

use minijinja::HtmlEscape;
use plotters::chart::ChartBuilder;
use plotters::coord::combinators::IntoLogRange;
use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};

use super::super::chart::{Area, Drawn, TEXT, document, style};
use crate::error::SimError;

/// Pixels of a panel, about as many as a phone has.
const SIZE: (u32, u32) = (360, 230);
/// For half of the words of the last tick.
const RIGHT_MARGIN: u32 = 24;
/// Of places on the axis below, whose words are above the panel.
const TOP_MARGIN: u32 = 18;
/// Series that differ in colour; those after them differ in hollow points too.
const COLOURS: usize = 6;
/// Half of a point.
const RADIUS: f64 = 3.6;

/// Nothing that is measured is as great, and labels of it have no room.
const GREATEST: f64 = 1e12;

/// The range of a logarithmic axis: more decades than these leave nothing to be seen.
const MOST_DECADES: f64 = 7.0;

/// One axis.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    from: f64,
    to: f64,
    is_log: bool,
    label: String,
    format: fn(f64) -> String,
    ticks: usize,
}

impl Axis {
    /// From 0, or from below it, to a little above the greatest.
    pub(super) fn linear(values: impl IntoIterator<Item = f64>, format: fn(f64) -> String) -> Self {
        let most = values.into_iter().filter(|value| *value < GREATEST).fold(0.0, f64::max);
        let most = if most > 0.0 { most } else { 1.0 };
        Self::between(0.0, most * 1.06, format)
    }

    /// From a little below the least to a little above the greatest where they lie close together; from 0
    /// otherwise.
    pub(super) fn around(values: impl IntoIterator<Item = f64>, format: fn(f64) -> String) -> Self {
        let values = values.into_iter().filter(|value| value.abs() < GREATEST);
        let (least, most) =
            values.fold((f64::INFINITY, 0.0f64), |(least, most), value| (least.min(value), most.max(value)));
        if least <= 0.4 * most || least == f64::INFINITY {
            return Self::linear([most], format);
        }
        let room = (0.12 * (most - least)).max(0.01 * most);
        Self::between((least - room).max(0.0), most + room, format)
    }

    /// As it is said; from 0 to 1 where that is no range that can be drawn.
    pub(super) fn between(from: f64, to: f64, format: fn(f64) -> String) -> Self {
        let is_range = from < to && from.abs() < GREATEST && to.abs() < GREATEST;
        let (from, to) = if is_range { (from, to) } else { (0.0, 1.0) };
        Self { from, to, is_log: false, label: String::new(), format, ticks: 5 }
    }

    /// So many rows, one above the other, without ticks.
    pub(super) fn of_rows(rows: usize) -> Self {
        Self { ticks: 0, ..Self::between(0.0, rows as f64, |_| String::new()) }
    }

    /// Whole decades around all values above 0.
    pub(super) fn log(values: impl IntoIterator<Item = f64>, format: fn(f64) -> String) -> Self {
        let positive = values.into_iter().filter(|value| *value > 0.0 && *value < GREATEST);
        let (least, most) = positive
            .fold((f64::INFINITY, 0.0f64), |(least, most), value| (least.min(value), most.max(value)));
        let (least, most) = if most > 0.0 { (least, most) } else { (1.0, 10.0) };
        let to = most.log10().ceil();
        let from = least.log10().floor().clamp(to - MOST_DECADES, to - 1.0);
        // A hair beyond, so that rounding leaves no tick out.
        let (from, to) = (10f64.powf(from) * (1.0 - 1e-9), 10f64.powf(to) * (1.0 + 1e-9));
        Self { is_log: true, ..Self::between(from, to, format) }
    }

    /// With words below it.
    pub(super) fn labelled(self, label: &str) -> Self {
        Self { label: label.to_owned(), ..self }
    }

    /// Whether a value lies on it.
    pub(super) fn holds(&self, value: f64) -> bool {
        (self.from..=self.to).contains(&value)
    }

    /// Where a value lies between both ends, 0 to 1; what lies beyond an end is at it.
    fn share(&self, value: f64) -> f64 {
        let share = if self.is_log {
            (value.max(self.from) / self.from).ln() / (self.to / self.from).ln()
        } else {
            (value - self.from) / (self.to - self.from)
        };
        if share.is_nan() { 0.0 } else { share.clamp(0.0, 1.0) }
    }
}

/// The class of a series: colour and dashes.
pub(super) fn class(series: usize) -> String {
    format!("c{}", series % COLOURS + 1)
}

/// The shape of the points of a series around a place.
fn point(series: usize, (x, y): (f64, f64)) -> String {
    let r = RADIUS;
    match series % COLOURS {
        0 => format!("M{:.1} {y:.1}a{r} {r} 0 1 0 {d} 0a{r} {r} 0 1 0 -{d} 0z", x - r, d = 2.0 * r),
        1 => format!("M{:.1} {:.1}h{d}v{d}h-{d}z", x - 3.2, y - 3.2, d = 6.4),
        2 => format!("M{x:.1} {:.1}l4.4 7.6h-8.8z", y - 4.9),
        3 => format!("M{x:.1} {:.1}l4.8 4.8l-4.8 4.8l-4.8 -4.8z", y - 4.8),
        4 => format!("M{:.1} {:.1}h3v-3h3v3h3v3h-3v3h-3v-3h-3z", x - 4.5, y - 1.5),
        _ => format!("M{x:.1} {:.1}l4.4 -7.6h-8.8z", y + 4.9),
    }
}

fn point_class(series: usize) -> String {
    let hollow = if series >= COLOURS { " hollow" } else { "" };
    format!("p {}{hollow}", class(series))
}

/// What a series looks like, for a legend.
pub(super) fn swatch(series: usize) -> String {
    format!(
        "<svg class=\"swatch\" viewBox=\"0 0 36 12\" aria-hidden=\"true\"><path class=\"l {}\" \
         d=\"M1 6h34\"/><path class=\"{}\" d=\"{}\"/></svg>",
        class(series),
        point_class(series),
        point(series, (18.0, 6.0))
    )
}

/// A panel that is being drawn.
pub(super) struct Plot {
    frame: String,
    x: Axis,
    y: Axis,
    /// Of the plotting area, in pixels.
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    marks: String,
}

impl Plot {
    /// Axes and grid.
    ///
    /// # Errors
    /// They cannot be drawn.
    pub(super) fn new(x: Axis, y: Axis) -> Result<Self, SimError> {
        Self::of_height(x, y, SIZE.1)
    }

    /// As [`Plot::new`], of so many pixels of height.
    pub(super) fn of_height(x: Axis, y: Axis, height: u32) -> Result<Self, SimError> {
        let mut pixels = Pixels::default();
        let frame = document("report", (SIZE.0, height), |root| {
            let (x_range, y_range) = (x.from..x.to, y.from..y.to);
            pixels = match (x.is_log, y.is_log) {
                (false, false) => mesh(root, (x_range, &x), (y_range, &y)),
                (true, false) => mesh(root, (x_range.log_scale(), &x), (y_range, &y)),
                (false, true) => mesh(root, (x_range, &x), (y_range.log_scale(), &y)),
                (true, true) => mesh(root, (x_range.log_scale(), &x), (y_range.log_scale(), &y)),
            }?;
            Ok(())
        })?;
        let ((left, right), (top, bottom)) = pixels;
        let [left, right, top, bottom] = [left, right, top, bottom].map(f64::from);
        Ok(Self { frame: plain(&frame), x, y, left, right, top, bottom, marks: String::new() })
    }

    /// In pixels.
    pub(super) fn at(&self, x: f64, y: f64) -> (f64, f64) {
        (
            self.left + (self.right - self.left) * self.x.share(x),
            self.bottom - (self.bottom - self.top) * self.y.share(y),
        )
    }

    /// A path in pixels.
    pub(super) fn path(&mut self, class: &str, data: &str) {
        if !data.is_empty() {
            // Writing to a string cannot fail.
            let _ = write!(self.marks, "<path class=\"{class}\" d=\"{data}\"/>");
        }
    }

    /// A line through some places.
    pub(super) fn line(&mut self, class: &str, points: impl IntoIterator<Item = (f64, f64)>) {
        let mut data = String::new();
        for (at, (x, y)) in points.into_iter().enumerate() {
            let (x, y) = self.at(x, y);
            let _ = write!(data, "{}{x:.1} {y:.1}", if at == 0 { 'M' } else { 'L' });
        }
        self.path(class, &data);
    }

    /// The line and the points of a series.
    pub(super) fn series(&mut self, series: usize, points: &[(f64, f64)]) {
        self.line(&format!("l {}", class(series)), points.iter().copied());
        self.points(series, points);
    }

    /// The points of a series.
    pub(super) fn points(&mut self, series: usize, points: &[(f64, f64)]) {
        let data: String = points.iter().map(|&(x, y)| point(series, self.at(x, y))).collect();
        self.path(&point_class(series), &data);
    }

    /// An interval of a series, upright or across.
    pub(super) fn whisker(&mut self, series: usize, from: (f64, f64), to: (f64, f64)) {
        let ((x, y), (to_x, to_y)) = (self.at(from.0, from.1), self.at(to.0, to.1));
        let data = format!("M{x:.1} {y:.1}L{to_x:.1} {to_y:.1}");
        self.path(&format!("w {}", class(series)), &data);
    }

    /// Upright bars: from, to and height of each.
    pub(super) fn bars(&mut self, class: &str, bars: impl IntoIterator<Item = (f64, f64, f64)>) {
        let mut data = String::new();
        for (from, to, height) in bars {
            let ((x, y), (to_x, _)) = (self.at(from, height), self.at(to, height));
            // A hair of the background between two.
            let width = (to_x - x - 0.4).max(0.4);
            let _ = write!(data, "M{x:.1} {:.1}V{y:.1}h{width:.1}V{:.1}z", self.bottom, self.bottom);
        }
        self.path(class, &data);
    }

    /// A level across the panel, with words above its left end, or below where it is at the upper edge.
    pub(super) fn level(&mut self, y: f64, words: &str) {
        let (_, at) = self.at(0.0, y);
        self.path("limit", &format!("M{:.1} {at:.1}H{:.1}", self.left, self.right));
        let below = at - self.top < 16.0;
        self.words((self.left + 4.0, if below { at + 13.0 } else { at - 4.0 }), "start", words);
    }

    /// A place on the axis below, with words above its line.
    pub(super) fn place(&mut self, x: f64, words: &str) {
        let (at, _) = self.at(x, 0.0);
        self.path("mark", &format!("M{at:.1} {:.1}V{:.1}", self.top, self.bottom));
        let share = (at - self.left) / (self.right - self.left);
        let anchor = match share {
            share if share < 0.15 => "start",
            share if share > 0.85 => "end",
            _ => "middle",
        };
        self.words((at, self.top - 5.0), anchor, words);
    }

    /// Words on the left of the panel at a height, in place of a tick.
    pub(super) fn beside(&mut self, y: f64, words: &str) {
        let (_, at) = self.at(0.0, y);
        self.words((self.left - 8.0, at + 4.0), "end", words);
    }

    /// Words at a place in pixels.
    fn words(&mut self, (x, y): (f64, f64), anchor: &str, words: &str) {
        if words.is_empty() {
            return;
        }
        let words = HtmlEscape(words);
        let _ = write!(
            self.marks,
            "<text class=\"note\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>"
        );
    }

    /// The element, with what it shows in words.
    pub(super) fn finish(self, words: &str) -> String {
        let frame = self.frame.trim_end().trim_end_matches("</svg>");
        let label = HtmlEscape(words);
        let frame =
            frame.replacen("<svg", &format!("<svg class=\"plot\" role=\"img\" aria-label=\"{label}\""), 1);
        format!("{frame}{}</svg>", self.marks)
    }
}

/// From and to of the plotting area, across and down.
type Pixels = ((i32, i32), (i32, i32));

/// Axes, ticks and grid; where the plotting area is.
fn mesh<X, Y>(root: &Area<'_>, (x_range, x): (X, &Axis), (y_range, y): (Y, &Axis)) -> Drawn<Pixels>
where
    X: AsRangedCoord<Value = f64>,
    Y: AsRangedCoord<Value = f64>,
    X::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
    Y::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let mut chart = ChartBuilder::on(root)
        .x_label_area_size(if x.label.is_empty() { 24 } else { 40 })
        .y_label_area_size(58)
        .margin_right(RIGHT_MARGIN)
        .margin_top(TOP_MARGIN)
        .build_cartesian_2d(x_range, y_range)?;
    let mut mesh = chart.configure_mesh();
    style(&mut mesh);
    mesh.disable_x_mesh()
        .x_labels(x.ticks)
        .y_labels(y.ticks)
        .x_label_formatter(&|value| (x.format)(*value))
        .y_label_formatter(&|value| (y.format)(*value))
        .x_desc(&x.label)
        .draw()?;
    let (across, down) = chart.plotting_area().get_pixel_range();
    Ok(((across.start, across.end), (down.start, down.end)))
}

/// Without what the style of the page says.
fn plain(svg: &str) -> String {
    let colour = format!("\"#{:02X}{:02X}{:02X}\"", TEXT.0, TEXT.1, TEXT.2);
    let mut plain = svg.to_owned();
    for attribute in [
        " xmlns=\"http://www.w3.org/2000/svg\"",
        " font-family=\"sans-serif\"",
        " opacity=\"1\"",
        " stroke-width=\"1\"",
        &format!(" fill={colour}"),
        &format!(" stroke={colour}"),
        &format!(" width=\"{}\"", SIZE.0),
    ] {
        plain = plain.replace(attribute, "");
    }
    for attribute in [" font-size=\"", " height=\""] {
        while let Some(from) = plain.find(attribute) {
            let value = from + attribute.len();
            let to = plain[value..].find('"').map_or(plain.len(), |end| value + end + 1);
            plain.replace_range(from..to, "");
        }
    }
    plain.replace(">\n", ">").replace("\n</", "</")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(value: f64) -> String {
        format!("{value:.0}")
    }

    #[test]
    fn a_panel_has_no_colour_of_its_own() {
        for (x, y) in [
            (Axis::linear([3.0], whole), Axis::log([0.0, 5.0, 9_000.0], whole)),
            (Axis::log([1.0, 50.0], whole), Axis::linear([0.0], whole)),
            (Axis::log([], whole), Axis::log([7.0], whole)),
            (Axis::around([90.0, 110.0], whole), Axis::of_rows(3)),
            (Axis::log([1e300], whole), Axis::linear([1e300, f64::MAX], whole)),
            (Axis::between(1.0, 1.0, whole), Axis::between(f64::NAN, f64::INFINITY, whole)),
        ] {
            let mut plot = Plot::new(x.labelled("steps"), y).expect("a panel");
            plot.series(7, &[(1.0, 2.0), (2.0, f64::NAN), (f64::INFINITY, -1.0)]);
            plot.level(3.0, "a < b");
            let svg = plot.finish("\"words\" & more");
            assert!(!svg.contains('#') && !svg.contains("font-") && !svg.contains("NaN"), "{svg}");
            assert!(
                svg.starts_with(
                    "<svg class=\"plot\" role=\"img\" aria-label=\"&quot;words&quot; &amp; more\""
                )
            );
            assert!(svg.contains("viewBox=\"0 0 360 230\"") && !svg.contains(" width="), "{svg}");
            assert!(svg.contains("a &lt; b") && svg.contains("steps") && svg.ends_with("</svg>"));
            assert_eq!(svg.matches("class=\"p c2 hollow\"").count(), 1, "{svg}");
        }
    }

    #[test]
    fn values_lie_where_the_axis_has_them() {
        let plot =
            Plot::new(Axis::between(0.0, 10.0, whole), Axis::log([10.0, 900.0], whole)).expect("a panel");
        let (left, bottom) = plot.at(0.0, 0.0);
        let (right, top) = plot.at(10.0, 1e9);
        assert!(left < right && top < bottom, "{left} {right} {top} {bottom}");
        assert_eq!(plot.at(-5.0, 1.0), (left, bottom), "beyond the ends is at them");
        assert!((plot.at(5.0, 1.0).0 - (left + right) / 2.0).abs() < 1e-9);
        let distances = [10.0, 100.0, 1_000.0].map(|value| plot.at(0.0, value).1);
        assert!((distances[0] - 2.0 * distances[1] + distances[2]).abs() < 1e-9, "a decade is a decade");
    }

    #[test]
    fn series_differ_in_shape_and_class() {
        let shapes: Vec<String> = (0..COLOURS).map(|series| point(series, (0.0, 0.0))).collect();
        let swatches: Vec<String> = (0..2 * COLOURS).map(swatch).collect();
        for all in [&shapes, &swatches] {
            for (at, one) in all.iter().enumerate() {
                assert!(!all[..at].contains(one), "{one}");
            }
        }
    }
}
