//! Which charts are drawn of a device's rows.

use crate::chart::{Chart, Series};
use crate::row::Row;
use anyhow::Result;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Logits of a large batch have more elements than this.
const LARGE: u64 = 1 << 24;

/// Values of each series by category.
type Points = BTreeMap<String, BTreeMap<Category, f64>>;

/// In the order of the axis: C, then N.
type Category = (u64, u64);

fn points(
    rows: &[Row],
    category: impl Fn(&Row) -> Option<Category>,
    series: impl Fn(&Row) -> String,
    value: impl Fn(&Row) -> Option<f64>,
) -> Points {
    let mut points = Points::new();
    for row in rows {
        if let (Some(category), Some(value)) = (category(row), value(row)) {
            points.entry(series(row)).or_default().insert(category, value);
        }
    }
    points
}

/// Draws what there is data for; the charts' paths, which start as `stem`.
pub fn draw(device: &str, rows: &[Row], stem: &Path) -> Result<Vec<PathBuf>> {
    let shape = |row: &Row| Some((row.c?, row.n?));
    let ours = |row: &Row| if row.peer.is_empty() { "logit-perturb".to_owned() } else { row.peer.clone() };
    let named = |row: &Row| format!("{} {}", row.what.replace('_', " "), row.variant.replace('_', " "));
    let plain = |row: &Row| row.variant == "plain";
    let large = |row: &Row| shape(row).filter(|(c, n)| c * n > LARGE && row.what == "cross_entropy" && plain(row));
    let of_c = |(c, _): &Category| c.to_string();
    let of_shape = |(c, n): &Category| format!("{n} x {c}");
    let learner = |row: &Row| shape(row).filter(|_| row.what == "learner" && row.variant == "uniform graph warm");
    let launches = |row: &Row| shape(row).filter(|_| row.what == "launches" && row.variant == "learner uniform");
    let compared = |row: &Row| shape(row).filter(|_| row.share_of_copy.is_none() && !row.peer.is_empty());
    let charts = [
        (
            "bandwidth",
            Chart {
                title: "Cross-entropy, loss and gradient".into(),
                x: "classes",
                y: "share of the copy's bandwidth",
                log: false,
            },
            points(rows, large, |row| format!("{}, {}", ours(row), row.dtype), |row| row.share_of_copy),
            &of_c as &dyn Fn(&Category) -> String,
        ),
        (
            "learner",
            Chart { title: "LPL, 40 steps".into(), x: "rows x classes", y: "microseconds", log: true },
            points(rows, learner, ours, Row::us),
            &of_shape,
        ),
        (
            "launches",
            Chart { title: "Launches for one batch of LPL".into(), x: "rows x classes", y: "launches", log: true },
            points(rows, launches, ours, Row::us),
            &of_shape,
        ),
        (
            "learner-ratio",
            Chart {
                title: "LPL, 40 steps: the peer's time over ours".into(),
                x: "rows x classes",
                y: "their time / ours",
                log: true,
            },
            points(
                rows,
                |row| compared(row).filter(|_| row.what == "learner"),
                |row| format!("{}, {}", row.peer, row.variant),
                |row| row.ratio,
            ),
            &of_shape,
        ),
        (
            "loss-ratio",
            Chart {
                title: "Losses: the peer's time over ours".into(),
                x: "rows x classes",
                y: "their time / ours",
                log: true,
            },
            points(
                rows,
                |row| compared(row).filter(|_| row.what != "learner"),
                |row| format!("{}, {}", named(row), row.peer),
                |row| row.ratio,
            ),
            &of_shape,
        ),
    ];
    let mut drawn = Vec::new();
    for (name, chart, points, label) in charts.into_iter().filter(|(_, _, points, _)| !points.is_empty()) {
        let mut categories: Vec<Category> = points.values().flat_map(|series| series.keys().copied()).collect();
        categories.sort_unstable();
        categories.dedup();
        let series = points.into_iter().map(|(name, values)| Series {
            name,
            values: categories.iter().map(|category| values.get(category).copied()).collect(),
        });
        let path = PathBuf::from(format!("{}-{name}.svg", stem.display()));
        let chart = Chart { title: format!("{} ({device})", chart.title), ..chart };
        chart.save(&path, &categories.iter().map(label).collect::<Vec<_>>(), &series.collect::<Vec<_>>())?;
        drawn.push(path);
    }
    Ok(drawn)
}
