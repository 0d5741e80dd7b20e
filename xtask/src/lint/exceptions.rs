//! Exceptions from the rules, each with its reason, out of a table. One that nothing needs any more
//! is a complaint as well.

use std::cell::Cell;

use anyhow::{Context, Result, ensure};

use super::table;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What<'a> {
    /// So long, and no longer.
    Lines(usize),
    Uses(&'a str),
}

struct Exception<'a> {
    place: &'a str,
    what: What<'a>,
    needed: Cell<bool>,
}

pub struct Exceptions<'a>(Vec<Exception<'a>>);

impl<'a> Exceptions<'a> {
    /// From the table `exceptions`: where, what, why.
    pub fn read(document: &'a str) -> Result<Self> {
        let rows = table::rows(document, "exceptions")?;
        let read = |row: &Vec<&'a str>| {
            exception(row).with_context(|| format!("the exception {}", row.join(" | ")))
        };
        Ok(Self(rows.iter().map(read).collect::<Result<_>>()?))
    }

    /// Whether a file or a function, as `FILE::NAME`, may have so many lines.
    pub fn lines(&self, place: &str, lines: usize) -> bool {
        self.any(
            place,
            |what| matches!(what, What::Lines(most) if lines <= most),
        )
    }

    /// Whether a room may use another.
    pub fn uses(&self, room: &str, other: &str) -> bool {
        self.any(room, |what| what == What::Uses(other))
    }

    fn any(&self, place: &str, excuses: impl Fn(What<'a>) -> bool) -> bool {
        let mut found = self.0.iter().filter(|exception| exception.place == place);
        let found = found.find(|exception| excuses(exception.what));
        found.inspect(|found| found.needed.set(true)).is_some()
    }

    pub fn complaints(&self) -> Vec<String> {
        let idle = self.0.iter().filter(|exception| !exception.needed.get());
        let complaint = |idle: &Exception<'_>| {
            format!(
                "the exception for {} is not needed: take it out",
                idle.place
            )
        };
        idle.map(complaint).collect()
    }
}

fn exception<'a>(row: &[&'a str]) -> Result<Exception<'a>> {
    let &[place, what, why] = row else {
        anyhow::bail!("needs three cells: where, what, why");
    };
    ensure!(!why.is_empty(), "has no reason");
    let place = table::code(place)
        .next()
        .context("says where in backticks")?;
    let what = match what.strip_suffix(" lines") {
        Some(lines) => What::Lines(lines.parse()?),
        None => What::Uses(used(what).context("says `N lines` or uses `ROOM`")?),
    };
    let needed = Cell::new(false);
    Ok(Exception {
        place,
        what,
        needed,
    })
}

fn used(what: &str) -> Option<&str> {
    table::code(what.strip_prefix("uses ")?).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "<!-- exceptions -->
| where | what | why |
|---|---|---|
| `a.rs` | 500 lines | a table |
| `b/` | uses `c/` | a circle |
<!-- /exceptions -->";

    #[test]
    fn what_is_in_the_table_is_excused_and_no_more() {
        let exceptions = Exceptions::read(TABLE).unwrap();
        assert!(exceptions.lines("a.rs", 500) && !exceptions.lines("a.rs", 501));
        assert!(exceptions.uses("b/", "c/") && !exceptions.uses("c/", "b/"));
        assert_eq!(exceptions.complaints().len(), 0);
    }

    #[test]
    fn an_exception_that_nothing_needs_is_a_complaint() {
        let exceptions = Exceptions::read(TABLE).unwrap();
        assert!(exceptions.lines("a.rs", 450));
        let complaints = exceptions.complaints();
        assert_eq!(
            complaints,
            ["the exception for b/ is not needed: take it out"]
        );
    }

    #[test]
    fn an_exception_without_a_reason_is_an_error() {
        assert!(Exceptions::read(&TABLE.replace("a circle", "")).is_err());
    }
}
