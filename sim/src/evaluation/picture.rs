//! The loads of all workers over time, one panel a policy: what balance looks like, as SVG.

use plotters::chart::ChartBuilder;
use plotters::element::{PathElement, Polygon, Text};
use plotters::style::text_anchor::HPos;
use plotters::style::{Color, ShapeStyle};

use super::chart::{Area, Drawn, GREATEST, RANKS, document, middle, style, text};
use crate::cluster::{Cluster, Library, Loads, Scenario};
use crate::error::{SimError, argument};

const PANEL_WIDTH: u32 = 480;
const HEIGHT: u32 = 350;
/// Above the panels: what the colours mean.
const LEGEND_HEIGHT: u32 = 34;
/// Above each panel: the policy, and how far the fullest worker lies above the mean.
const TITLES_HEIGHT: u32 = 50;
/// Most panels side by side.
const MOST_PANELS: usize = 4;

/// The loads of one policy: for each step, in tokens, those of all workers after its admissions.
struct Panel<'a> {
    policy: &'a str,
    loads: Vec<Vec<u64>>,
}

impl Panel<'_> {
    fn greatest(&self) -> Vec<f64> {
        self.loads.iter().map(|loads| loads.iter().copied().max().unwrap_or(0) as f64).collect()
    }

    fn means(&self) -> Vec<f64> {
        let mean = |loads: &Vec<u64>| loads.iter().sum::<u64>() as f64 / loads.len().max(1) as f64;
        self.loads.iter().map(mean).collect()
    }

    /// How far the fullest worker lies above the mean, as a share of the mean, over all steps.
    fn excess(&self) -> f64 {
        let (greatest, means): (f64, f64) = (self.greatest().iter().sum(), self.means().iter().sum());
        if means > 0.0 { greatest / means - 1.0 } else { 0.0 }
    }
}

/// Simulates the policies of a scenario under one seed, and draws the loads of its workers as an SVG
/// document.
///
/// # Errors
/// An argument out of range, a run that could not go on, or nothing to draw.
pub fn svg(scenario: &Scenario, seed: u64) -> Result<String, SimError> {
    scenario.check()?;
    if scenario.policies.len() > MOST_PANELS {
        let expected = format!("at most {MOST_PANELS} policies");
        return Err(argument("policy", expected, scenario.policies.len()));
    }
    let library = Library::new(&scenario.source);
    let mut panels = Vec::new();
    for policy in &scenario.policies {
        let mut loads = Vec::new();
        let cluster = Cluster::new(scenario, &library, scenario.build(policy, seed)?, None, seed, None)?;
        cluster.run_seen(&mut Loads(|step: &[u64]| loads.push(step.to_vec())))?;
        panels.push(Panel { policy, loads });
    }
    let width = PANEL_WIDTH * panels.len() as u32;
    document("picture", (width, HEIGHT + LEGEND_HEIGHT), |root| draw(&panels, root))
}

fn draw(panels: &[Panel<'_>], root: &Area<'_>) -> Drawn {
    let (legend, below) = root.split_vertically(LEGEND_HEIGHT);
    draw_legend(&legend)?;

    // All panels have the same axes, from a little below the least load to a little above the greatest.
    let all = || panels.iter().flat_map(|panel| panel.loads.iter().flatten().copied());
    let (low, high) = (all().min().unwrap_or(0) as f64 / 1e3, all().max().unwrap_or(0) as f64 / 1e3);
    let (low, high) = ((low / 10.0).floor() * 10.0, (high / 10.0).ceil() * 10.0);
    for (panel, area) in panels.iter().zip(below.split_evenly((1, panels.len().max(1)))) {
        draw_panel(panel, &area, (low, high))?;
    }
    Ok(())
}

fn draw_legend(area: &Area<'_>) -> Drawn {
    let width = area.dim_in_pixel().0 as i32;
    let middle = LEGEND_HEIGHT as i32 / 2;
    let entries = [
        (RANKS.stroke_width(2), "each rank"),
        (GREATEST.stroke_width(3), "the fullest rank: the step lasts as long"),
        (GREATEST.mix(0.25).stroke_width(12), "time spent waiting, on average"),
    ];
    let widths = [85, 270, 230];
    let mut x = (width - widths.iter().sum::<i32>()) / 2;
    for ((style, words), step) in entries.into_iter().zip(widths) {
        area.draw(&PathElement::new(vec![(x, middle), (x + 22, middle)], style))?;
        area.draw(&Text::new(words, (x + 30, middle), text(14, false, HPos::Left)))?;
        x += step + 20;
    }
    Ok(())
}

fn draw_panel(panel: &Panel<'_>, area: &Area<'_>, (low, high): (f64, f64)) -> Drawn {
    let (title, plot) = area.split_vertically(TITLES_HEIGHT);
    let middle = middle(area);
    title.draw(&Text::new(panel.policy, (middle, 14), text(18, true, HPos::Center)))?;
    let excess = format!("fullest rank {:.1} % above the mean", 100.0 * panel.excess());
    title.draw(&Text::new(excess, (middle, 36), text(14, false, HPos::Center)))?;

    let steps = panel.loads.len().max(1);
    let mut chart = ChartBuilder::on(&plot)
        .x_label_area_size(44)
        .y_label_area_size(66)
        .margin_left(10)
        .margin_right(16)
        .margin_bottom(8)
        .build_cartesian_2d(0.0..steps as f64, low..high)?;
    let mut mesh = chart.configure_mesh();
    style(&mut mesh);
    mesh.disable_x_mesh()
        .x_labels(5)
        .y_labels(5)
        .x_label_formatter(&|step| format!("{step:.0}"))
        .y_label_formatter(&|tokens| format!("{tokens:.0}k"))
        .x_desc("decode steps")
        .y_desc("KV tokens of a rank")
        .draw()?;

    let line = |values: &[f64]| -> Vec<(f64, f64)> {
        values.iter().enumerate().map(|(step, tokens)| (step as f64, tokens / 1e3)).collect()
    };
    let (greatest, means) = (line(&panel.greatest()), line(&panel.means()));
    let between: Vec<(f64, f64)> = greatest.iter().chain(means.iter().rev()).copied().collect();
    chart.draw_series([Polygon::new(between, GREATEST.mix(0.25))])?;
    let workers = panel.loads.first().map_or(0, Vec::len);
    let thin = ShapeStyle::from(RANKS.mix(0.75)).stroke_width(1);
    for worker in 0..workers {
        let loads: Vec<f64> = panel.loads.iter().map(|loads| loads[worker] as f64).collect();
        chart.draw_series([PathElement::new(line(&loads), thin)])?;
    }
    chart.draw_series([PathElement::new(greatest, GREATEST.stroke_width(2))])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Source;
    use crate::workloads::Workload;

    fn scenario(policies: &[&str]) -> Scenario {
        Scenario {
            source: Source::Workload(Workload::Lognormal),
            workers: 3,
            slots: 4,
            pool: 4,
            steps: Some(30),
            warmup: 10,
            policies: policies.iter().map(|&name| name.to_owned()).collect(),
            ..Scenario::default()
        }
    }

    #[test]
    fn each_policy_has_a_panel_with_a_line_for_each_worker() {
        let picture = svg(&scenario(&["jsq", "level"]), 0).expect("a picture");
        assert!(picture.starts_with("<svg") && picture.trim_end().ends_with("</svg>"), "{picture}");
        let thin = format!("stroke=\"#{:02X}{:02X}{:02X}\" stroke-width=\"1\"", RANKS.0, RANKS.1, RANKS.2);
        assert_eq!(picture.matches(&thin).count(), 2 * 3, "{picture}");
        assert!(picture.contains("jsq") && picture.contains("level"));
        assert_eq!(
            svg(&scenario(&["jsq", "level"]), 0).ok(),
            Some(picture),
            "the same command, the same picture"
        );
    }

    #[test]
    fn what_cannot_be_drawn_is_refused() {
        assert!(matches!(svg(&scenario(&[]), 0), Err(SimError::Argument { name: "policy", .. })));
        let five = scenario(&["jsq"; 5]);
        assert!(matches!(svg(&five, 0), Err(SimError::Argument { name: "policy", .. })));
    }

    #[test]
    fn excess_is_of_the_mean() {
        let panel = Panel { policy: "level", loads: vec![vec![90, 110], vec![80, 120]] };
        assert_eq!(panel.greatest(), [110.0, 120.0]);
        approx::assert_abs_diff_eq!(panel.excess(), 0.15, epsilon = 1e-12);
        assert_eq!(Panel { policy: "level", loads: vec![vec![0, 0]] }.excess(), 0.0);
    }
}
