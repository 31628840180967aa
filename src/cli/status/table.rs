//! A table that fits the screen: columns are left out, and the last cell is wrapped.

use super::View;
use crate::cli::text::{width, wrapped};

/// Most rows of a table, unless all are asked for.
const ROWS: usize = 40;

/// A table of text cells.
pub(super) struct Table {
    /// The column heads. The number says in which order columns are left out: the greatest first, 0
    /// never.
    pub(super) columns: Vec<(&'static str, u8)>,
    pub(super) rows: Vec<Vec<String>>,
}

impl Table {
    /// The lines of the table; none if it has no rows.
    pub(super) fn text(mut self, view: View) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        let more = if view.all { 0 } else { self.rows.len().saturating_sub(ROWS) };
        self.rows.truncate(self.rows.len() - more);
        // A column without any value is left out.
        self.leave_out(|table, at| table.rows.iter().all(|row| row[at].is_empty()));
        let whole =
            |table: &Self| table.widths().iter().map(|width| width + 2).sum::<usize>().saturating_sub(2);
        // The last cell may be long: it is wrapped.
        while view.width.is_some_and(|most| whole(&self) > most) {
            let least = self.columns.iter().map(|(_, soon)| *soon).max().unwrap_or(0);
            if least == 0 {
                break;
            }
            self.leave_out(|table, at| table.columns[at].1 == least);
        }
        let widths = self.widths();
        let heads = self.columns.iter().map(|(head, _)| (*head).to_owned()).collect();
        let mut out = String::new();
        for row in std::iter::once(&heads).chain(&self.rows) {
            out += &line(row, &widths, view.width);
        }
        if more > 0 {
            out += &format!("and {more} more: --all, or choose with --site, --master, --unwell\n");
        }
        out
    }

    /// The width of each column. That of the last one is its head's, since it may be wrapped.
    fn widths(&self) -> Vec<usize> {
        let last = self.columns.len() - 1;
        let widest = |at: usize| self.rows.iter().map(|row| width(&row[at])).max().unwrap_or(0);
        let widths = self.columns.iter().enumerate();
        widths
            .map(|(at, (head, _))| if at == last { head.len() + 11 } else { head.len().max(widest(at)) })
            .collect()
    }

    fn leave_out(&mut self, is_left_out: impl Fn(&Self, usize) -> bool) {
        for at in (0..self.columns.len()).rev() {
            if is_left_out(self, at) {
                self.columns.remove(at);
                self.rows.iter_mut().for_each(|row| drop(row.remove(at)));
            }
        }
    }
}

/// One row; the last cell is wrapped if it does not fit.
fn line(row: &[String], widths: &[usize], most: Option<usize>) -> String {
    let (last, cells) = row.split_last().expect("a table has columns");
    let mut out = String::new();
    for (cell, width) in cells.iter().zip(widths) {
        out += &format!("{cell:<width$}  ");
    }
    match most {
        Some(most) if width(&out) + width(last) > most => {
            format!("{}\n    {}\n", out.trim_end(), wrapped(last, most.saturating_sub(4), 0).join("\n    "))
        }
        _ => format!("{}\n", (out + last).trim_end()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(last: &str) -> Table {
        Table {
            columns: vec![("LINK", 0), ("FAR GATEWAY", 8), ("RATE", 1), ("WHY", 0)],
            rows: vec![vec!["1".into(), "192.0.2.1:7379".into(), String::new(), last.into()]],
        }
    }

    #[test]
    fn a_table_fits_the_screen_without_its_least_important_columns() {
        let view = |width| View { width, ..View::default() };
        let wide = table("gone").text(view(None));
        assert_eq!(
            wide, "LINK  FAR GATEWAY     WHY\n1     192.0.2.1:7379  gone\n",
            "an empty column is none"
        );
        assert_eq!(table("gone").text(view(Some(30))), "LINK  WHY\n1     gone\n");
        let long = table(&"some words that go on and on ".repeat(5)).text(view(Some(40)));
        assert!(long.lines().count() > 3 && long.lines().all(|line| line.len() <= 40), "{long}");
    }

    #[test]
    fn many_rows_are_cut_and_counted() {
        let mut many = table("x");
        many.rows = vec![many.rows[0].clone(); 100];
        let rows = many.rows.clone();
        let text = many.text(View::default());
        assert!(text.lines().count() == ROWS + 2 && text.contains("and 60 more: --all"), "{text}");
        let all = Table { rows, ..table("x") }.text(View { all: true, ..View::default() });
        assert_eq!(all.lines().count(), 101);
    }
}
