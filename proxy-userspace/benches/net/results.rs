//! Figures of all rounds, by metric and contender.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::goals;
use crate::kind::Kind;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Better {
    More,
    Less,
}

#[derive(Clone, PartialEq)]
pub struct Metric {
    pub name: String,
    pub unit: &'static str,
    pub better: Better,
}

pub type Figures = Vec<(Metric, f64)>;

pub fn more(name: impl Into<String>, unit: &'static str) -> Metric {
    Metric {
        name: name.into(),
        unit,
        better: Better::More,
    }
}

pub fn less(name: impl Into<String>, unit: &'static str) -> Metric {
    Metric {
        name: name.into(),
        unit,
        better: Better::Less,
    }
}

pub struct Row {
    pub metric: Metric,
    rounds: BTreeMap<Kind, Vec<f64>>,
}

#[derive(Default)]
pub struct Results {
    pub rows: Vec<Row>,
}

impl Results {
    pub fn add(&mut self, kind: Kind, figures: Figures) {
        for (metric, value) in figures {
            let row = match self.rows.iter_mut().position(|row| row.metric == metric) {
                Some(at) => &mut self.rows[at],
                None => {
                    self.rows.push(Row {
                        metric,
                        rounds: BTreeMap::new(),
                    });
                    self.rows.last_mut().expect("a row was pushed")
                }
            };
            row.rounds.entry(kind).or_default().push(value);
        }
    }
}

impl Row {
    pub fn median(&self, kind: Kind) -> Option<f64> {
        self.rounds.get(&kind).map(|values| median(values))
    }

    /// The smallest and the largest of the rounds.
    pub fn spread(&self, kind: Kind) -> Option<(f64, f64)> {
        let rounds = self.rounds.get(&kind)?.iter().copied();
        rounds.clone().reduce(f64::min).zip(rounds.reduce(f64::max))
    }

    pub fn of_truepeer(&self) -> Option<f64> {
        self.median(Kind::Truepeer)
    }

    /// truepeer's figure in multiples of direct's.
    pub fn to_direct(&self) -> Option<f64> {
        self.ratio(self.median(Kind::Direct)?)
    }

    /// What truepeer's figure is more than direct's.
    pub fn beyond_direct(&self) -> Option<f64> {
        Some(self.of_truepeer()? - self.median(Kind::Direct)?)
    }

    /// truepeer's figure in multiples of the best peer's.
    pub fn to_best_peer(&self) -> Option<f64> {
        let peers = Kind::ALL.into_iter().filter(|kind| kind.is_peer());
        let peers = peers.filter_map(|kind| self.median(kind));
        self.ratio(match self.metric.better {
            Better::More => peers.reduce(f64::max),
            Better::Less => peers.reduce(f64::min),
        }?)
    }

    fn ratio(&self, other: f64) -> Option<f64> {
        Some(self.of_truepeer()? / other).filter(|ratio| ratio.is_finite())
    }

    pub fn json(&self) -> Value {
        let contenders: serde_json::Map<_, _> = self
            .rounds
            .iter()
            .map(|(kind, rounds)| {
                let value = json!({
                    "median": median(rounds),
                    "spread": self.spread(*kind),
                    "rounds": rounds,
                });
                (kind.name().to_owned(), value)
            })
            .collect();
        let better = match self.metric.better {
            Better::More => "more",
            Better::Less => "less",
        };
        let goals = goals::of(self);
        let goals = goals
            .iter()
            .map(|goal| json!({ "goal": goal.text, "met": goal.met }));
        json!({
            "name": self.metric.name,
            "unit": self.metric.unit,
            "better": better,
            "contenders": contenders,
            "to_direct": self.to_direct(),
            "beyond_direct": self.beyond_direct(),
            "to_best_peer": self.to_best_peer(),
            "goals": goals.collect::<Vec<_>>(),
        })
    }
}

/// The middle one, or the mean of the middle two.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (sorted.len().saturating_sub(1) / 2, sorted.len() / 2);
    match (sorted.get(low), sorted.get(high)) {
        (Some(low), Some(high)) => (low + high) / 2.0,
        _ => f64::NAN,
    }
}
