//! A line chart over ordered categories, one line a method, as SVG.

use anyhow::{Context, Result, anyhow};
use plotters::coord::ranged1d::SegmentValue;
use plotters::prelude::*;
use std::path::Path;

/// Okabe and Ito's colours, which the colour-blind can tell apart; grey, the first, is for the baseline.
const COLOURS: [RGBColor; 5] = [
    RGBColor(110, 110, 110),
    RGBColor(230, 159, 0),
    RGBColor(0, 114, 178),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
];
const INK: RGBColor = RGBColor(60, 60, 60);
const GRID: RGBColor = RGBColor(228, 228, 228);

/// One line of a [`Chart`]: a percentage for each category. `colour` counts from 0, the baseline's.
pub struct Series {
    pub name: &'static str,
    pub colour: usize,
    pub values: Vec<f64>,
}

/// What is drawn.
pub struct Chart {
    pub title: String,
    pub x: &'static str,
    pub y: &'static str,
    pub categories: Vec<String>,
    pub legend: SeriesLabelPosition,
    pub series: Vec<Series>,
}

impl Chart {
    /// Draws into the file `path`, whose folder is made if need be.
    pub fn save(&self, path: &Path) -> Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
        }
        let mut svg = String::new();
        // plotters' errors borrow from the drawing, so their text is all that can leave it.
        self.draw(SVGBackend::with_string(&mut svg, (860, 520))).map_err(|error| anyhow!("cannot draw: {error}"))?;
        std::fs::write(path, svg).with_context(|| format!("cannot write the chart {}", path.display()))
    }

    fn draw<B: DrawingBackend>(&self, backend: B) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        let area = backend.into_drawing_area();
        area.fill(&WHITE)?;
        let last = self.categories.len() as i32 - 1;
        let font = |size: u32| ("sans-serif", size).into_font().color(&INK);
        let mut chart = ChartBuilder::on(&area)
            .caption(&self.title, font(18))
            .margin(14)
            .x_label_area_size(54)
            .y_label_area_size(58)
            .build_cartesian_2d((0..last).into_segmented(), 0.0..100.0)?;
        let category = |x: &SegmentValue<i32>| match x {
            SegmentValue::CenterOf(index) => self.categories.get(*index as usize).cloned().unwrap_or_default(),
            _ => String::new(),
        };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(INK)
            .x_labels(self.categories.len())
            .x_label_formatter(&category)
            .y_labels(6)
            .y_label_formatter(&|y| format!("{y:.0}"))
            .x_desc(self.x)
            .y_desc(self.y)
            .label_style(font(14))
            .axis_desc_style(font(15))
            .draw()?;
        for Series { name, colour, values } in &self.series {
            let colour = COLOURS[colour % COLOURS.len()];
            let points: Vec<_> = (0..).map(SegmentValue::CenterOf).zip(values.iter().copied()).collect();
            let dots = points.clone().into_iter().map(|point| Circle::new(point, 4, colour.filled()));
            chart.draw_series(LineSeries::new(points, colour.stroke_width(2)))?;
            chart
                .draw_series(dots)?
                .label(*name)
                .legend(move |(x, y)| Rectangle::new([(x, y - 2), (x + 16, y + 1)], colour.filled()));
        }
        chart
            .configure_series_labels()
            .position(self.legend.clone())
            .background_style(WHITE.mix(0.85))
            .border_style(GRID)
            .label_font(font(14))
            .margin(12)
            .draw()?;
        area.present()
    }
}
