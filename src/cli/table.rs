//! Tables that fit a terminal: the last column takes what is left, cut where it does not fit. Nothing is cut elsewhere.

/// Lines of a table with a heading; columns are two spaces apart. Control characters become `?`.
pub(super) fn lines(heading: &[&str], rows: &[Vec<String>], width: Option<usize>) -> Vec<String> {
    let clean = |text: &str| text.chars().map(|c| if c.is_control() { '?' } else { c }).collect::<String>();
    let heading: Vec<String> = heading.iter().map(|text| (*text).to_owned()).collect();
    let all: Vec<Vec<String>> =
        std::iter::once(&heading).chain(rows).map(|row| row.iter().map(|cell| clean(cell)).collect()).collect();
    let columns = heading.len();
    let widest = |column: usize| {
        all.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(widest).collect();
    all.iter().map(|row| line(row, &widths, width)).collect()
}

fn line(row: &[String], widths: &[usize], width: Option<usize>) -> String {
    let mut text = String::new();
    for (index, cell) in row.iter().enumerate() {
        if index > 0 {
            text.push_str("  ");
        }
        text.push_str(cell);
        if index + 1 < row.len() {
            let missing = widths.get(index).copied().unwrap_or(0).saturating_sub(cell.chars().count());
            text.extend(std::iter::repeat_n(' ', missing));
        }
    }
    let text = text.trim_end();
    match width {
        Some(width) if text.chars().count() > width => {
            let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
            cut.push('…');
            cut
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_and_cuts() {
        let rows = [
            vec!["a".to_owned(), "x\ty".to_owned(), "long text".to_owned()],
            vec!["bbb".to_owned(), String::new(), String::new()],
        ];
        let whole = lines(&["N", "M", "TEXT"], &rows, None);
        assert_eq!(whole, ["N    M    TEXT", "a    x?y  long text", "bbb"]);
        let cut = lines(&["N", "M", "TEXT"], &rows, Some(14));
        assert_eq!(cut, ["N    M    TEXT", "a    x?y  lon…", "bbb"]);
    }
}
