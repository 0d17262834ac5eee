//! Line charts as inline SVG.
//!
//! Owns: what is drawn of a curve, and where lines and labels stand. Never: colours and line widths (`style.css`).

use std::fmt::Write as _;

use super::axis::{Axis, LARGEST, number};
use super::{Along, Chart, Curve, escape};

/// Points that are drawn of one line; more would not be seen.
pub(super) const MOST_POINTS: usize = 500;
/// Colours in `style.css`; the next name gets the first colour again, dashed.
const COLOURS: usize = 6;
/// Lines with few points show them.
const MOST_DOTS: usize = 40;
/// Pixels from one label to the next.
const LINE_HEIGHT: f64 = 16.0;
/// Pixels of a letter, on average.
const LETTER: f64 = 7.0;

type Point = (f64, f64);

/// A curve, made ready to be drawn.
struct Line<'a> {
    name: &'a str,
    colour: usize,
    dashed: bool,
    points: Vec<Point>,
    /// Of curves that jump about.
    mean: Option<Vec<Point>>,
}

/// The chart's place in pixels.
struct Frame {
    width: f64,
    height: f64,
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    x: Axis,
    y: Axis,
}

/// Whether names stand at the lines' ends, below the chart, or nowhere because there are none.
#[derive(Clone, Copy, PartialEq)]
enum Names {
    Beside,
    Below,
    None,
}

/// The chart with its title and what explains it.
pub(super) fn figure(chart: &Chart, wide: bool) -> String {
    let lines = lines(&chart.curves);
    let (title, class) = (escape(&chart.title), if wide { " class=\"wide\"" } else { "" });
    let mut out = format!("<figure{class}>\n<h2>{title}</h2>\n");
    if wide {
        out.push_str(&picture(chart, &lines, true));
    }
    // A wide one has this beside it for narrow screens, where its letters would be too small.
    out.push_str(&picture(chart, &lines, false));
    if lines.iter().any(|line| line.mean.is_some()) {
        out.push_str("<p class=\"note\">Faint: every point; strong: the running mean.</p>\n");
    }
    out.push_str("</figure>\n");
    out
}

/// The drawing, with the names of its lines.
fn picture(chart: &Chart, lines: &[Line<'_>], wide: bool) -> String {
    let (width, height) = if wide { (940.0, 330.0) } else { (456.0, 270.0) };
    let named = named(lines);
    let names = match named.len() {
        0 => Names::None,
        n if n as f64 * LINE_HEIGHT <= height - 60.0 => Names::Beside,
        _ => Names::Below,
    };
    let frame = Frame::new(lines, &named, names, chart.along, (width, height));
    let class = if wide { "broad" } else { "small" };
    let mut out = format!(
        "<div class=\"{class}\"><svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{}\">\n",
        escape(&chart.title)
    );
    out.push_str(&frame.axes(chart));
    if lines.iter().all(|line| line.points.is_empty()) {
        let (x, y) = (f64::midpoint(frame.left, frame.right), f64::midpoint(frame.top, frame.bottom));
        let _ = writeln!(
            out,
            "<text class=\"quiet\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">no data</text>"
        );
    }
    // The later ones lie above, and the first is the one that matters.
    out.extend(lines.iter().rev().map(|line| frame.line(line)));
    if names == Names::Beside {
        out.push_str(&frame.names(&named, wide));
    }
    out.push_str("</svg>\n");
    if names == Names::Below {
        out.push_str(&legend(&named));
    }
    out.push_str("</div>\n");
    out
}

fn lines(curves: &[Curve]) -> Vec<Line<'_>> {
    let mut names: Vec<&str> = Vec::new();
    let mut lines = Vec::new();
    for curve in curves {
        let index = names.iter().position(|name| *name == curve.name).unwrap_or_else(|| {
            names.push(&curve.name);
            names.len() - 1
        });
        let drawn = |v: f64| v.is_finite() && v.abs() <= LARGEST;
        let points: Vec<Point> = curve.points.iter().copied().filter(|p| drawn(p.0) && drawn(p.1)).collect();
        let mean = jumps_about(&points).then(|| running_mean(&points));
        let dashed = curve.dashed || (index / COLOURS) % 2 == 1;
        lines.push(Line { name: &curve.name, colour: index % COLOURS, dashed, points, mean });
    }
    lines
}

/// The first line of each name; lines without points have an entry as well, so that one sees that they are empty.
fn named<'a, 'b>(lines: &'b [Line<'a>]) -> Vec<&'b Line<'a>> {
    let mut named: Vec<&Line<'a>> = Vec::new();
    for line in lines {
        if !line.name.is_empty() && named.iter().all(|other| other.name != line.name) {
            named.push(line);
        }
    }
    named
}

/// Whether more than a third of the points are higher or lower than both of their neighbours. Two thirds of pure
/// noise are, and nothing of a schedule.
fn jumps_about(points: &[Point]) -> bool {
    let turns = points.windows(3).filter(|w| (w[1].1 - w[0].1) * (w[2].1 - w[1].1) < 0.0).count();
    points.len() >= 40 && turns * 3 > points.len()
}

/// The mean over a twenty-fifth of the curve around each point. At the start the window is as wide as it can be to
/// both sides, since a loss falls steeply there; at the end it is cut off.
fn running_mean(points: &[Point]) -> Vec<Point> {
    let half = (points.len() / 50).max(2);
    let mut sums = vec![0.0];
    for (_, y) in points {
        // Scaled, so that the sum of the largest values is finite.
        sums.push(sums[sums.len() - 1] + y / points.len() as f64);
    }
    let mean = |i: usize| {
        let (from, to) = (i - half.min(i), points.len().min(i + half.min(i) + 1));
        (sums[to] - sums[from]) * (points.len() as f64 / (to - from) as f64)
    };
    points.iter().enumerate().map(|(i, point)| (point.0, mean(i))).collect()
}

/// At most [`MOST_POINTS`] of the points: the ends, and of equal parts between them the lowest and highest point,
/// so that no spike is lost.
pub(super) fn thin_out(points: &[Point]) -> Vec<Point> {
    if points.len() <= MOST_POINTS {
        return points.to_vec();
    }
    let inner = &points[1..points.len() - 1];
    let mut kept = vec![points[0]];
    for part in inner.chunks(inner.len().div_ceil(MOST_POINTS / 2 - 1)) {
        let (mut low, mut high) = (0, 0);
        for (i, point) in part.iter().enumerate() {
            low = if point.1 < part[low].1 { i } else { low };
            high = if point.1 > part[high].1 { i } else { high };
        }
        kept.push(part[low.min(high)]);
        if low != high {
            kept.push(part[low.max(high)]);
        }
    }
    kept.push(points[points.len() - 1]);
    kept
}

impl Frame {
    fn new(
        lines: &[Line<'_>],
        named: &[&Line<'_>],
        names: Names,
        along: Along,
        (width, height): (f64, f64),
    ) -> Self {
        let points = lines.iter().flat_map(|line| line.points.iter());
        let (values, most) = (points.clone().map(|p| p.0), if width > 600.0 { 8 } else { 5 });
        let x = match along {
            Along::Linear => Axis::along(values, most),
            Along::Logarithmic => Axis::of_ratios(values, most),
        };
        let y = Axis::upwards(points.map(|p| p.1), 6);
        let ticks = y.ticks.iter().map(|tick| letters(&y.label(*tick)));
        let left = 12.0 + LETTER * ticks.fold(2.0, f64::max);
        let longest =
            named.iter().map(|line| letters(&shortened(line.name, width > 600.0))).fold(0.0, f64::max);
        let beside = if names == Names::Beside { 38.0 + LETTER * longest } else { 28.0 };
        Self { width, height, left, right: width - beside, top: 26.0, bottom: height - 42.0, x, y }
    }

    fn place(&self, point: Point) -> Point {
        let x = self.left + (self.right - self.left) * self.x.share(point.0);
        (x, self.bottom - (self.bottom - self.top) * self.y.share(point.1))
    }

    /// Grid, ticks and what the axes mean.
    fn axes(&self, chart: &Chart) -> String {
        let mut out = String::new();
        let Self { left, right, top, bottom, .. } = *self;
        for tick in &self.y.ticks {
            let (_, y) = self.place((self.x.low, *tick));
            let label = self.y.label(*tick);
            let _ = writeln!(
                out,
                "<line class=\"grid\" x1=\"{left:.1}\" y1=\"{y:.1}\" x2=\"{right:.1}\" y2=\"{y:.1}\"/>\
                 <text class=\"quiet\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
                left - 7.0,
                y + 4.0
            );
        }
        for tick in &self.x.ticks {
            let (x, _) = self.place((*tick, self.y.low));
            let label = self.x.label(*tick);
            let _ = writeln!(
                out,
                "<line class=\"grid\" x1=\"{x:.1}\" y1=\"{bottom:.1}\" x2=\"{x:.1}\" y2=\"{:.1}\"/>\
                 <text class=\"quiet\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>",
                bottom + 5.0,
                bottom + 19.0
            );
        }
        let most = (self.width / LETTER) as usize;
        let (x_label, y_label) = (cut(&chart.x_label, most), cut(&chart.y_label, most));
        let _ = writeln!(
            out,
            "<text class=\"quiet\" x=\"0\" y=\"{:.1}\">{}</text>\
             <text class=\"quiet\" x=\"{right:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            top - 13.0,
            escape(&y_label),
            self.height - 4.0,
            escape(&x_label)
        );
        out
    }

    fn line(&self, line: &Line<'_>) -> String {
        let Some(last) = line.points.last() else { return String::new() };
        let mut out = format!("<g class=\"k{}\">", line.colour);
        let values = line.points.iter().map(|p| p.1);
        let (low, high) = (values.clone().fold(f64::MAX, f64::min), values.fold(f64::MIN, f64::max));
        let name = if line.name.is_empty() { String::new() } else { format!("{}: ", escape(line.name)) };
        let _ = write!(
            out,
            "<title>{name}last {}, lowest {}, highest {}</title>",
            number(last.1),
            number(low),
            number(high)
        );
        if line.mean.is_some() {
            out.push_str(&self.polyline("faint", &line.points));
        }
        let class = if line.dashed { "line dash" } else { "line" };
        out.push_str(&self.polyline(class, line.mean.as_ref().unwrap_or(&line.points)));
        if line.points.len() <= MOST_DOTS {
            for point in &line.points {
                let ((cx, cy), at, value) = (self.place(*point), number(point.0), number(point.1));
                let title = format!("<title>{name}{value} at {at}</title>");
                let _ = write!(
                    out,
                    "<circle class=\"dot\" cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"3\">{title}</circle>"
                );
            }
        }
        out.push_str("</g>\n");
        out
    }

    fn polyline(&self, class: &str, points: &[Point]) -> String {
        let mut out = format!("<polyline class=\"{class}\" points=\"");
        for (i, point) in thin_out(points).into_iter().enumerate() {
            let (x, y) = self.place(point);
            let _ = write!(out, "{}{x:.1},{y:.1}", if i > 0 { " " } else { "" });
        }
        out.push_str("\"/>");
        out
    }

    /// The names at the right, each at the height of its line's end where there is room.
    fn names(&self, named: &[&Line<'_>], wide: bool) -> String {
        let end = |line: &Line<'_>| line.mean.as_ref().unwrap_or(&line.points).last().map(|p| self.place(*p));
        let mut labels: Vec<(f64, &Line<'_>)> =
            named.iter().map(|line| (end(line).map_or(self.bottom, |(_, y)| y), *line)).collect();
        labels.sort_by(|a, b| a.0.total_cmp(&b.0));
        let heights = set_apart(&labels.iter().map(|(y, _)| *y).collect::<Vec<_>>(), self.top, self.bottom);
        let mut out = String::new();
        for (y, (_, line)) in heights.into_iter().zip(labels) {
            let from = self.right + 10.0;
            let _ = write!(out, "<g class=\"k{}\">", line.colour);
            if let Some((x, end)) = end(line).filter(|(x, _)| self.right - x < 1.0) {
                let _ = write!(out, "<polyline class=\"lead\" points=\"{x:.1},{end:.1} {from:.1},{y:.1}\"/>");
            }
            let _ = writeln!(
                out,
                "<polyline class=\"line{}\" points=\"{from:.1},{y:.1} {:.1},{y:.1}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\"><title>{}</title>{}</text></g>",
                if line.dashed { " dash" } else { "" },
                from + 16.0,
                from + 22.0,
                y + 4.0,
                escape(line.name),
                escape(&shortened(line.name, wide))
            );
        }
        out
    }
}

/// Moves heights, which come in ascending order, so far apart that labels do not overlap, within `top..=bottom`
/// where they fit.
fn set_apart(heights: &[f64], top: f64, bottom: f64) -> Vec<f64> {
    let mut out = heights.to_vec();
    let mut least = top;
    for y in &mut out {
        *y = y.max(least);
        least = *y + LINE_HEIGHT;
    }
    let mut most = bottom;
    for y in out.iter_mut().rev() {
        *y = y.min(most);
        most = *y - LINE_HEIGHT;
    }
    out
}

fn legend(named: &[&Line<'_>]) -> String {
    let entry = |line: &&Line<'_>| {
        format!(
            "<li class=\"k{}\"><svg viewBox=\"0 0 24 8\"><line class=\"line{}\" x1=\"1\" y1=\"4\" x2=\"23\" y2=\"4\"/>\
             </svg>{}</li>\n",
            line.colour,
            if line.dashed { " dash" } else { "" },
            escape(line.name)
        )
    };
    format!("<ul class=\"legend\">\n{}</ul>\n", named.iter().map(entry).collect::<String>())
}

fn shortened(name: &str, wide: bool) -> String {
    cut(name, if wide { 30 } else { 18 })
}

fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['\u{2026}']).collect()
}

/// The width of a text, in letters: those of East Asia are twice as wide.
fn letters(text: &str) -> f64 {
    text.chars().map(|c| if c >= '\u{2e80}' { 2.0 } else { 1.0 }).sum()
}
