//! What a command says: paragraphs and tables, for a terminal, for a page of Markdown, for a file.

use std::fmt::Write as _;

use comfy_table::presets::{ASCII_MARKDOWN, NOTHING};
use comfy_table::{CellAlignment, ContentArrangement, Table};

/// Between two columns.
const GAP: usize = 2;
/// How wide an explanation is where nobody says how wide the terminal is.
const PAGE_WIDTH: usize = 110;

/// How a page is laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    /// Straight columns, however wide.
    #[default]
    Plain,
    /// Straight columns on a terminal of so many: a wider table goes on below, its first column again.
    Within(usize),
    /// Markdown.
    Markdown,
}

/// Cells under names of one or two lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grid {
    head: Vec<Vec<String>>,
    rows: Vec<Vec<String>>,
}

impl Grid {
    /// The first `head` rows are names.
    pub(crate) fn new(mut rows: Vec<Vec<String>>, head: usize) -> Self {
        let below = rows.split_off(head.min(rows.len()));
        Self { head: rows, rows: below }
    }

    /// The names of the columns, each on one line.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let name = |column: usize| {
            let parts: Vec<&str> = self
                .head
                .iter()
                .filter_map(|row| row.get(column))
                .map(String::as_str)
                .filter(|part| !part.is_empty())
                .collect();
            parts.join(" ")
        };
        (0..self.columns()).map(name).collect()
    }

    /// Only these rows, under all names.
    pub(crate) fn part(&self, rows: std::ops::Range<usize>) -> Self {
        Self { head: self.head.clone(), rows: self.rows[rows].to_vec() }
    }

    fn columns(&self) -> usize {
        self.all().map(Vec::len).max().unwrap_or(0)
    }

    fn all(&self) -> impl Iterator<Item = &Vec<String>> {
        self.head.iter().chain(&self.rows)
    }

    /// The table in a style.
    #[must_use]
    pub fn show(&self, style: Style) -> String {
        match style {
            Style::Markdown => self.markdown(),
            Style::Plain => self.straight(&(0..self.columns()).collect::<Vec<_>>()),
            Style::Within(width) => {
                let parts: Vec<String> =
                    self.parts(width).iter().map(|columns| self.straight(columns)).collect();
                parts.join("\n")
            }
        }
    }

    /// Whether it needs no more columns of a terminal.
    pub(crate) fn fits(&self, style: Style) -> bool {
        match style {
            Style::Plain => true,
            Style::Within(width) => self.parts(width).len() <= 1,
            Style::Markdown => false,
        }
    }

    /// Which columns stand side by side: the first one in every part.
    fn parts(&self, width: usize) -> Vec<Vec<usize>> {
        let of = |column: usize| {
            let cells = self.all().filter_map(|row| row.get(column));
            cells.map(|cell| console::measure_text_width(cell)).max().unwrap_or(0)
        };
        let first = of(0);
        let (mut parts, mut used) = (vec![vec![0]], first);
        for column in 1..self.columns() {
            let more = GAP + of(column);
            let part = parts.last_mut().filter(|part| part.len() == 1 || used + more <= width);
            if let Some(part) = part {
                part.push(column);
                used += more;
            } else {
                parts.push(vec![0, column]);
                used = first + more;
            }
        }
        parts
    }

    /// The first column to the left, all others to the right.
    fn straight(&self, columns: &[usize]) -> String {
        let mut table = Table::new();
        table.load_preset(NOTHING);
        for row in self.all() {
            table.add_row(columns.iter().map(|&column| row.get(column).map_or("", String::as_str)));
        }
        for (at, column) in table.column_iter_mut().enumerate() {
            let gap = u16::try_from(if at == 0 { 0 } else { GAP }).unwrap_or_default();
            column.set_padding((gap, 0));
            column.set_cell_alignment(if at == 0 { CellAlignment::Left } else { CellAlignment::Right });
        }
        let mut text = table.trim_fmt();
        text.push('\n');
        text
    }

    fn markdown(&self) -> String {
        let escaped = |cell: &str| cell.trim().replace('|', "\\|");
        let mut table = Table::new();
        table.load_preset(ASCII_MARKDOWN);
        table.set_header(self.names().iter().map(|name| escaped(name)));
        for row in &self.rows {
            table.add_row(row.iter().map(|cell| escaped(cell)));
        }
        format!("{table}\n")
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// Lines as they are.
    Text(String),
    /// A table, with a line right above it.
    Grid(String, Grid),
    /// What the names of columns mean.
    Legend(Vec<(String, String)>),
}

/// Paragraphs and tables, one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    parts: Vec<Part>,
}

impl Page {
    /// An empty page.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds lines.
    #[must_use]
    pub fn text(mut self, lines: impl Into<String>) -> Self {
        self.parts.push(Part::Text(lines.into()));
        self
    }

    /// Adds a table.
    #[must_use]
    pub fn grid(self, grid: Grid) -> Self {
        self.captioned(String::new(), grid)
    }

    /// Adds a table with lines right above it.
    #[must_use]
    pub fn captioned(mut self, lines: impl Into<String>, grid: Grid) -> Self {
        self.parts.push(Part::Grid(lines.into(), grid));
        self
    }

    /// Adds what the names of columns mean.
    #[must_use]
    pub fn legend<N: Into<String>, W: Into<String>>(
        mut self,
        entries: impl IntoIterator<Item = (N, W)>,
    ) -> Self {
        let entries = entries.into_iter().map(|(name, words)| (name.into(), words.into())).collect();
        self.parts.push(Part::Legend(entries));
        self
    }

    /// The page in a style. Parts are set apart by an empty line.
    #[must_use]
    pub fn show(&self, style: Style) -> String {
        let shown: Vec<String> = self.parts.iter().map(|part| part.show(style)).collect();
        shown.join("\n")
    }
}

impl Part {
    fn show(&self, style: Style) -> String {
        match (self, style) {
            (Self::Text(lines), Style::Markdown) => in_lines(lines),
            (Self::Text(lines), _) => lines.clone(),
            (Self::Grid(lines, grid), Style::Markdown) if !lines.is_empty() => {
                format!("{}\n{}", in_lines(lines), grid.markdown())
            }
            (Self::Grid(lines, grid), style) => format!("{lines}{}", grid.show(style)),
            (Self::Legend(entries), Style::Markdown) => {
                let head = ["column", ""].map(str::to_owned).to_vec();
                let rows = entries.iter().map(|(name, words)| vec![name.clone(), words.clone()]);
                Grid::new(std::iter::once(head).chain(rows).collect(), 1).markdown()
            }
            (Self::Legend(entries), style) => explained(entries, style),
        }
    }
}

/// Lines of a paragraph that stay lines in Markdown.
fn in_lines(lines: &str) -> String {
    let mut text = String::new();
    for line in lines.lines() {
        let escaped = line.replace('*', "\\*").replace('_', "\\_").replace('<', "\\<");
        // Two spaces at the end are a line break. Writing to a string cannot fail.
        let _ = writeln!(text, "{escaped}{}", if line.is_empty() { "" } else { "  " });
    }
    text
}

/// Names to the left, words beside them, within the width.
fn explained(entries: &[(String, String)], style: Style) -> String {
    let width = match style {
        Style::Within(width) => width,
        _ => PAGE_WIDTH,
    };
    let mut table = Table::new();
    table.load_preset(NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_width(u16::try_from(width).unwrap_or(u16::MAX));
    table.add_rows(entries.iter().map(|(name, words)| [name, words]));
    for (at, column) in table.column_iter_mut().enumerate() {
        column.set_padding((if at == 0 { 0 } else { 2 }, 0));
    }
    let mut text = table.trim_fmt();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid() -> Grid {
        let rows = [
            ["policy", "imbalance", "wait", "wait"],
            ["", "G*max-sum", "p99 ms", "max ms"],
            ["level", "19.1k", "1200", "9|9"],
            ["vllm-0.33", "233k", "980", "1"],
        ];
        Grid::new(rows.map(|row| row.map(str::to_owned).to_vec()).to_vec(), 2)
    }

    #[test]
    fn columns_are_straight_and_lines_end_where_their_text_ends() {
        let text = "\
policy     imbalance    wait    wait
           G*max-sum  p99 ms  max ms
level          19.1k    1200     9|9
vllm-0.33       233k     980       1
";
        assert_eq!(grid().show(Style::Plain), text);
        assert_eq!(grid().show(Style::Within(36)), text);
        assert!(grid().fits(Style::Within(36)) && !grid().fits(Style::Within(35)));
        assert_eq!(Grid::default().show(Style::Plain), "\n");
    }

    #[test]
    fn a_wide_table_goes_on_below_with_its_first_column() {
        let text = "\
policy     imbalance    wait
           G*max-sum  p99 ms
level          19.1k    1200
vllm-0.33       233k     980

policy       wait
           max ms
level         9|9
vllm-0.33       1
";
        assert_eq!(grid().show(Style::Within(35)), text);
        // Where not even two columns fit, two there are.
        let narrow = grid().show(Style::Within(1));
        assert_eq!(narrow.split("\n\n").count(), 3, "{narrow}");
        assert!(narrow.lines().all(|line| line.is_empty() || line.len() <= 20), "{narrow}");
    }

    #[test]
    fn markdown_has_one_line_of_names_and_no_bar_in_a_cell() {
        let text = grid().show(Style::Markdown);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert!(lines[0].contains("| wait p99 ms |"), "{text}");
        assert!(lines[1].chars().all(|c| "|-".contains(c)), "{text}");
        assert!(lines[2].contains("9\\|9"), "{text}");
        let page = Page::new().text("a_b * c\nd\n").legend([("wait", "in ms")]).show(Style::Markdown);
        assert!(page.starts_with("a\\_b \\* c  \nd  \n\n| column |"), "{page}");
    }

    #[test]
    fn explanations_are_within_the_width() {
        let words = "how long a request waits until it enters a worker ".repeat(4);
        let page = Page::new().grid(grid()).legend([("wait", words.as_str()), ("imbalance", "G*max-sum")]);
        let text = page.show(Style::Within(50));
        assert!(text.lines().all(|line| line.chars().count() <= 50), "{text}");
        let joined = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(joined.contains("wait how long a request waits until it enters"), "{text}");
        assert!(page.show(Style::Plain).contains("imbalance  G*max-sum"), "{text}");
    }
}
