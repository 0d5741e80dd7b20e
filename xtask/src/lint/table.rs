//! Tables in documents that rules are read from: those between `<!-- NAME -->` and `<!-- /NAME -->`.

use anyhow::{Context, Result};

/// Its cells, row by row, without the headings.
pub fn rows<'a>(document: &'a str, name: &str) -> Result<Vec<Vec<&'a str>>> {
    let table = between(document, name)
        .with_context(|| format!("there is no table <!-- {name} --> … <!-- /{name} -->"))?;
    let lines = table.lines().filter_map(|line| {
        let line = line.trim().strip_prefix('|')?.strip_suffix('|')?;
        Some(line.split('|').map(str::trim).collect())
    });
    // The headings, and the dashes below them.
    Ok(lines.skip(2).collect())
}

fn between<'a>(document: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = document.split_once(&format!("<!-- {name} -->"))?;
    Some(rest.split_once(&format!("<!-- /{name} -->"))?.0)
}

/// What a cell has in backticks.
pub fn code(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_read_without_the_headings() {
        let document = "| a |\n<!-- x -->\n\n| b | c |\n|---|---|\n| `d` | 1 |\n<!-- /x -->\n| e |";
        assert_eq!(rows(document, "x").unwrap(), [["`d`", "1"]]);
        assert_eq!(code("`d` and `e/`").collect::<Vec<_>>(), ["d", "e/"]);
    }

    #[test]
    fn a_table_that_is_not_there_is_an_error() {
        assert!(rows("<!-- x -->\n| a |", "x").is_err());
    }
}
