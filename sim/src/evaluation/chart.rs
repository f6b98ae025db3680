//! What all pictures have in common: documents, colours, text, titles, grids.
//!
//! Colours are of middle brightness on no background, so that pictures read on light and dark pages.

use plotters::backend::SVGBackend;
use plotters::chart::MeshStyle;
use plotters::coord::Shift;
use plotters::coord::ranged1d::{Ranged, ValueFormatter};
use plotters::drawing::{DrawingArea, IntoDrawingArea};
use plotters::element::Text;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, FontStyle, IntoFont, RGBColor, TextStyle};

use crate::error::{SimError, argument};

pub(super) const TEXT: RGBColor = RGBColor(125, 133, 144);
pub(super) const RANKS: RGBColor = RGBColor(64, 138, 212);
pub(super) const GREATEST: RGBColor = RGBColor(230, 110, 36);

/// Above each panel.
pub(super) const TITLE_HEIGHT: u32 = 30;

pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
pub(super) type Drawn<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// An SVG document of so many pixels; `name` is the argument that asks for it.
pub(super) fn document(
    name: &'static str,
    size: (u32, u32),
    draw: impl FnOnce(&Area<'_>) -> Drawn,
) -> Result<String, SimError> {
    let mut document = String::new();
    let root = SVGBackend::with_string(&mut document, size).into_drawing_area();
    draw(&root)
        .and_then(|()| Ok(root.present()?))
        .map_err(|error| argument(name, "one that can be drawn", error))?;
    drop(root);
    Ok(document)
}

pub(super) fn text(size: u32, bold: bool, at: HPos) -> TextStyle<'static> {
    let style = if bold { FontStyle::Bold } else { FontStyle::Normal };
    let font = ("sans-serif", size).into_font().style(style);
    TextStyle::from(font).color(&TEXT).pos(Pos::new(at, VPos::Center))
}

/// The middle of a chart, which has the labels of its axis on the left.
pub(super) fn middle(area: &Area<'_>) -> i32 {
    area.dim_in_pixel().0 as i32 / 2 + 30
}

/// Draws the title; the area below it.
pub(super) fn titled<'a>(area: &Area<'a>, title: &str) -> Drawn<Area<'a>> {
    let (above, below) = area.split_vertically(TITLE_HEIGHT);
    above.draw(&Text::new(title.to_owned(), (middle(area), 18), text(16, true, HPos::Center)))?;
    Ok(below)
}

/// Grid, axes and labels as all charts have them.
pub(super) fn style<'a, 'b, X, Y>(mesh: &mut MeshStyle<'a, 'b, X, Y, SVGBackend<'a>>)
where
    X: Ranged + ValueFormatter<X::ValueType>,
    Y: Ranged + ValueFormatter<Y::ValueType>,
{
    mesh.light_line_style(TEXT.mix(0.0))
        .bold_line_style(TEXT.mix(0.25))
        .axis_style(TEXT.mix(0.6))
        .label_style(text(13, false, HPos::Left))
        .axis_desc_style(text(13, false, HPos::Center));
}
