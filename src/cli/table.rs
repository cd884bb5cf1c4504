//! Tables that fit a terminal: the last column takes what is left, cut where it does not fit. Nothing is cut elsewhere.

/// Characters of a cell on a terminal; uuids have 27.
const CELL_MAX: usize = 32;

/// Lines of a table with a heading; columns are two spaces apart. Control characters become `?`.
pub(super) fn lines(heading: &[&str], rows: &[Vec<String>], width: Option<usize>) -> Vec<String> {
    let clean = |text: &str| text.chars().map(|c| if c.is_control() { '?' } else { c }).collect::<String>();
    // On a terminal no column but the last may push the others off the screen.
    let cut = |text: String| match width {
        Some(_) if text.chars().count() > CELL_MAX => text.chars().take(CELL_MAX - 1).chain(['…']).collect(),
        _ => text,
    };
    let heading: Vec<String> = heading.iter().map(|text| (*text).to_owned()).collect();
    let all: Vec<Vec<String>> = std::iter::once(&heading).chain(rows).map(|row| cells(row, clean, cut)).collect();
    let columns = heading.len();
    let widest = |column: usize| {
        all.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(widest).collect();
    all.iter().map(|row| line(row, &widths, width)).collect()
}

fn cells(row: &[String], clean: impl Fn(&str) -> String, cut: impl Fn(String) -> String) -> Vec<String> {
    let last = row.len().saturating_sub(1);
    let cell = |(index, cell): (usize, &String)| if index == last { clean(cell) } else { cut(clean(cell)) };
    row.iter().enumerate().map(cell).collect()
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
        let long = [vec!["n".repeat(90), "state".to_owned(), "text".to_owned()]];
        assert!(lines(&["N", "M", "T"], &long, Some(80))[1].ends_with("n…  state  text"));
        assert!(lines(&["N", "M", "T"], &long, None)[1].starts_with(&"n".repeat(90)));
    }
}
