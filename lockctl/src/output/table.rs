//! Columns that line up.

/// Aligns cells in columns, two blanks apart, without blanks at the ends of lines.
pub(crate) fn aligned(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [vec!["NAME".into(), "HOST".into()], vec!["ä".into(), "db1".into()], vec!["nightly".into()]];
        assert_eq!(aligned(&rows), ["NAME     HOST", "ä        db1", "nightly"]);
        assert!(aligned(&[]).is_empty());
    }
}
