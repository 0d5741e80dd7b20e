//! A room uses rooms of a lower number only; equals never see each other. Which there are and their
//! numbers are in a table.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};

use super::exceptions::Exceptions;
use super::sources::Source;
use super::{table, uses};

/// Written in the table as "…/".
const SHORT: (&str, &str) = ("…/", "proxy-userspace/src/");
/// Whose sources must all be in some room.
const HOUSE: [&str; 3] = [
    "proxy-common/src/",
    "proxy-ebpf/src/",
    "proxy-userspace/src/",
];

struct Room<'a> {
    /// As the table has it.
    name: &'a str,
    number: u32,
    /// Its files, or directories with a "/" behind them.
    places: Vec<String>,
}

pub struct Rooms<'a>(Vec<Room<'a>>);

impl<'a> Rooms<'a> {
    /// From the table `rooms`: its files or directories, its number, and whatever else. One without
    /// a number, such as the tests, is beside the house.
    pub fn read(document: &'a str) -> Result<Self> {
        let mut rooms = Vec::new();
        for row in table::rows(document, "rooms")? {
            let [names, number, ..] = row.as_slice() else {
                continue;
            };
            let Ok(number) = number.parse() else {
                continue;
            };
            let name = table::code(names).next();
            let name = name.with_context(|| format!("the room {names} is not in backticks"))?;
            let places = table::code(names).map(|place| place.replace(SHORT.0, SHORT.1));
            let places = places.collect();
            rooms.push(Room {
                name,
                number,
                places,
            });
        }
        Ok(Self(rooms))
    }

    pub fn complaints(&self, sources: &[Source], exceptions: &Exceptions<'_>) -> Vec<String> {
        let files: BTreeSet<_> = sources.iter().map(|source| source.path.as_str()).collect();
        let house = sources.iter();
        let house = house.filter(|source| HOUSE.iter().any(|place| source.path.starts_with(place)));
        // One complaint for each two rooms: the first place where it is so.
        let mut complaints = BTreeMap::new();
        for source in house {
            let Some(room) = self.of(&source.path) else {
                let complaint = format!("{}: is in no room of the table", source.path);
                complaints.insert((source.path.as_str(), ""), complaint);
                continue;
            };
            for used in uses::find(source, &files) {
                let Some(other) = self.of(&used.file) else {
                    continue;
                };
                if room.may_use(other) || exceptions.uses(room.name, other.name) {
                    continue;
                }
                let place = format!("{}:{}", source.path, used.line);
                let complaint = complaints.entry((room.name, other.name));
                complaint.or_insert_with(|| room.complaint(other, &place));
            }
        }
        complaints.into_values().collect()
    }

    /// Of rooms within rooms, the innermost.
    fn of(&self, file: &str) -> Option<&Room<'a>> {
        let rooms = self
            .0
            .iter()
            .filter_map(|room| Some((room.depth(file)?, room)));
        rooms.max_by_key(|(depth, _)| *depth).map(|(_, room)| room)
    }
}

impl Room<'_> {
    /// How much of the path says that the file is in it.
    fn depth(&self, file: &str) -> Option<usize> {
        let places = self.places.iter();
        let has = places.filter(|place| match place.strip_suffix('/') {
            // Also the file beside its directory.
            Some(directory) => file.starts_with(*place) || file == format!("{directory}.rs"),
            None => file == *place,
        });
        has.map(String::len).max()
    }

    fn may_use(&self, other: &Room<'_>) -> bool {
        self.name == other.name || other.number < self.number
    }

    fn complaint(&self, other: &Room<'_>, place: &str) -> String {
        let (
            Room { name, number, .. },
            Room {
                name: used,
                number: other,
                ..
            },
        ) = (self, other);
        format!("{place}: {name} ({number}) uses {used} ({other}), which is not below it")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "<!-- rooms -->
| room | no. | job |
|---|---|---|
| `…/sys.rs` | 0 | |
| `…/relay/` | 1 | |
| `…/relay/tcp/` | 2 | |
| `…/netns/` | 1 | |
| `tests/` | – | |
<!-- /rooms -->
<!-- exceptions -->
| where | what | why |
|---|---|---|
| `…/netns/` | uses `…/relay/tcp/` | a circle |
<!-- /exceptions -->";

    /// Of a house with one source in each room and this one.
    fn complaints(path: &str, text: &str) -> Vec<String> {
        let rooms = ["sys.rs", "relay/mod.rs", "relay/tcp/mod.rs", "netns/mod.rs"];
        let sources = rooms
            .map(|path| (path, ""))
            .into_iter()
            .chain([(path, text)]);
        let sources = sources.map(|(path, text)| {
            Source::parse(&format!("{}{path}", SHORT.1), text.to_owned()).unwrap()
        });
        let sources: Vec<_> = sources.collect();
        let exceptions = Exceptions::read(TABLE).unwrap();
        Rooms::read(TABLE)
            .unwrap()
            .complaints(&sources, &exceptions)
    }

    #[test]
    fn a_room_may_use_what_is_below_it() {
        let none: [&str; 0] = [];
        assert_eq!(complaints("relay/accept.rs", "use crate::sys;"), none);
        assert_eq!(
            complaints("relay/tcp/pump.rs", "use crate::relay::X;"),
            none
        );
        assert_eq!(complaints("relay/accept.rs", "use super::other;"), none);
    }

    #[test]
    fn equals_and_what_is_above_are_complaints() {
        let equal = complaints("relay/accept.rs", "\nuse crate::netns::Steer;");
        let expected = "proxy-userspace/src/relay/accept.rs:2: …/relay/ (1) uses …/netns/ (1), \
                        which is not below it";
        assert_eq!(equal, [expected]);
        let above = complaints("relay/accept.rs", "fn a() { super::tcp::b() }");
        assert_eq!(above.len(), 1);
    }

    #[test]
    fn an_exception_excuses_its_own_direction_only() {
        let excused = complaints("netns/a.rs", "use crate::relay::tcp::X;");
        assert_eq!(excused.len(), 0);
        assert_eq!(complaints("netns/a.rs", "use crate::relay::X;").len(), 1);
    }

    #[test]
    fn a_source_without_a_room_is_a_complaint() {
        assert_eq!(complaints("new.rs", "").len(), 1);
    }
}
