//! Tables on the terminal.

use super::statistics::{Summary, differences};
use comfy_table::{CellAlignment, Table, presets::UTF8_BORDERS_ONLY};

/// A table whose first column is text and whose others are numbers.
pub fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY).set_header(header);
    table.add_rows(rows);
    table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    table
}

/// The paired difference to the baseline and on how many seeds it is an improvement, `-3.5 ± 1.6 (5 of 5)`; a dash where there is
/// nothing to compare with.
pub fn against(baseline: Option<&[f64]>, values: &[f64], is_better: fn(f64) -> bool) -> String {
    let Some(baseline) = baseline else { return "–".into() };
    let differences = differences(values, baseline);
    let wins = differences.iter().filter(|difference| is_better(**difference)).count();
    format!("{:+} ({wins} of {})", Summary::of(&differences), values.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_improvement_has_the_right_sign_and_a_tie_is_none() {
        let (baseline, values) = ([20.0, 20.0, 20.0], [18.0, 20.0, 21.0]);
        assert_eq!(against(Some(&baseline), &values, |difference| difference < 0.0), "-0.3 ± 1.5 (1 of 3)");
        assert_eq!(against(Some(&baseline[..1]), &values[..1], |difference| difference > 0.0), "-2.0 (0 of 1)");
        assert_eq!(against(None, &values, |difference| difference < 0.0), "–");
    }
}
