//! A line chart over ordered categories as SVG.

use anyhow::{Result, anyhow};
use plotters::coord::ranged1d::{AsRangedCoord, SegmentValue, ValueFormatter};
use plotters::prelude::*;
use std::path::Path;

/// Okabe and Ito's colours, which the colour-blind can tell apart, and a brown.
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(213, 94, 0),
    RGBColor(86, 180, 233),
    RGBColor(110, 110, 110),
    RGBColor(160, 120, 60),
];
const INK: RGBColor = RGBColor(60, 60, 60);
const GRID: RGBColor = RGBColor(228, 228, 228);

/// What a chart is of.
pub struct Chart {
    pub title: String,
    pub x: &'static str,
    pub y: &'static str,
    /// Whether the vertical axis is logarithmic; else it starts at 0.
    pub log: bool,
}

/// One line: a value for each category that it has one for.
pub struct Series {
    pub name: String,
    pub values: Vec<Option<f64>>,
}

impl Chart {
    pub fn save(&self, path: &Path, categories: &[String], series: &[Series]) -> Result<()> {
        let values = || series.iter().flat_map(|series| series.values.iter().flatten().copied());
        let (low, high) = values().fold((f64::INFINITY, 0f64), |(low, high), x| (low.min(x), high.max(x)));
        let mut svg = String::new();
        let backend = SVGBackend::with_string(&mut svg, (860, 560));
        // plotters' errors borrow from the drawing, so their text is all that can leave it.
        // With room above for the legend.
        let drawn = if self.log {
            self.draw(backend, categories, series, (low.min(1.0) / 1.5..high * 8.0).log_scale())
        } else {
            self.draw(backend, categories, series, 0.0..high * 1.5)
        };
        drawn.map_err(|error| anyhow!("cannot draw: {error}"))?;
        Ok(std::fs::write(path, svg)?)
    }

    fn draw<B: DrawingBackend, Y>(
        &self,
        backend: B,
        categories: &[String],
        series: &[Series],
        y: Y,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>>
    where
        Y: AsRangedCoord<Value = f64>,
        Y::CoordDescType: ValueFormatter<f64>,
    {
        let area = backend.into_drawing_area();
        area.fill(&WHITE)?;
        let font = |size: u32| ("sans-serif", size).into_font().color(&INK);
        let mut chart = ChartBuilder::on(&area)
            .caption(&self.title, font(18))
            .margin(14)
            .x_label_area_size(54)
            .y_label_area_size(64)
            .build_cartesian_2d((0..categories.len() as i32 - 1).into_segmented(), y)?;
        let category = |x: &SegmentValue<i32>| match x {
            SegmentValue::CenterOf(index) => categories.get(*index as usize).cloned().unwrap_or_default(),
            _ => String::new(),
        };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(INK)
            .x_labels(categories.len())
            .x_label_formatter(&category)
            .y_label_formatter(&|y| format!("{y}"))
            .x_desc(self.x)
            .y_desc(self.y)
            .label_style(font(14))
            .axis_desc_style(font(15))
            .draw()?;
        for (Series { name, values }, colour) in series.iter().zip(COLOURS.iter().cycle()) {
            let points = (0..).map(SegmentValue::CenterOf).zip(values).filter_map(|(x, y)| y.map(|y| (x, y)));
            let points: Vec<_> = points.collect();
            let dots = points.clone().into_iter().map(|point| Circle::new(point, 4, colour.filled()));
            chart.draw_series(LineSeries::new(points, colour.stroke_width(2)))?;
            chart
                .draw_series(dots)?
                .label(name)
                .legend(move |(x, y)| Rectangle::new([(x, y - 2), (x + 16, y + 1)], colour.filled()));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.85))
            .border_style(GRID)
            .label_font(font(12))
            .margin(12)
            .draw()?;
        area.present()
    }
}
