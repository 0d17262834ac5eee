//! Tests of the report: what is escaped, that nothing is drawn nowhere, what of a run becomes a chart.

use super::axis::{Axis, number};
use super::chart::{MOST_POINTS, thin_out};
use super::*;
use crate::run_log::{Kind, Record};

fn curve(name: &str, points: Vec<(f64, f64)>) -> Curve {
    Curve { name: name.into(), dashed: false, points }
}

fn chart(curves: Vec<Curve>) -> Chart {
    Chart { title: "Title".into(), x_label: "x".into(), y_label: "y".into(), curves, ..Chart::default() }
}

/// A page without the second drawing of a wide chart, which must be sound as well.
fn page(charts: Vec<Chart>) -> String {
    let html = Report { title: "Page".into(), charts, ..Report::default() }.html();
    drawn(&html);
    let parts: Vec<&str> = html.split("<div class=\"small\">").collect();
    let rest = parts.iter().skip(1).map(|part| part.split_once("</div>").unwrap().1);
    std::iter::once(parts[0]).chain(rest).collect()
}

/// The values of all attributes of this name.
fn attributes<'a>(html: &'a str, name: &str) -> Vec<&'a str> {
    let start = format!(" {name}=\"");
    html.split(start.as_str()).skip(1).map(|rest| rest.split('"').next().unwrap()).collect()
}

/// The points of all lines; fails where a coordinate is no number or outside of the picture.
fn drawn(html: &str) -> Vec<Vec<(f64, f64)>> {
    let number = |text: &str| text.parse::<f64>().unwrap_or_else(|_| panic!("coordinate {text}"));
    for name in ["x", "y", "x1", "x2", "y1", "y2", "cx", "cy"] {
        for value in attributes(html, name) {
            assert!((0.0..=940.0).contains(&number(value)), "{name}={value}");
        }
    }
    let lines = attributes(html, "points").into_iter().map(|points| {
        points.split(' ').map(|p| p.split_once(',').unwrap()).map(|(x, y)| (number(x), number(y))).collect()
    });
    let lines: Vec<Vec<(f64, f64)>> = lines.collect();
    for (x, y) in lines.iter().flatten() {
        assert!((0.0..=940.0).contains(x) && (0.0..=330.0).contains(y), "{x},{y}");
    }
    lines
}

/// Fails unless every element that is opened is closed, in order.
fn check_nesting(html: &str) {
    let mut open: Vec<&str> = Vec::new();
    for tag in html.split('<').skip(1).map(|rest| rest.split('>').next().unwrap()) {
        let name = tag.split([' ', '\n']).next().unwrap();
        if let Some(name) = name.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "closed: {name}");
        } else if !tag.ends_with('/') && !["meta", "!DOCTYPE"].contains(&name) {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "never closed: {open:?}");
}

#[test]
fn all_text_is_escaped_everywhere() {
    let evil = "<script>alert(\"x\")</script> & 'y'\u{0}".to_owned();
    let report = Report {
        title: evil.clone(),
        summary: vec![evil.clone()],
        tables: vec![Table {
            title: evil.clone(),
            header: vec![evil.clone()],
            rows: vec![vec![evil.clone()]],
            links: vec![evil.clone()],
        }],
        charts: vec![Chart {
            title: evil.clone(),
            x_label: evil.clone(),
            y_label: evil.clone(),
            curves: vec![curve(&evil, vec![(0.0, 1.0), (1.0, 2.0)]); 2],
            ..Chart::default()
        }],
        confusions: vec![Confusion {
            title: evil.clone(),
            labels: vec![evil.clone(), evil.clone()],
            counts: vec![vec![1, 2], vec![3, 4]],
        }],
    };
    let html = report.html();
    check_nesting(&html);
    assert!(!html.contains("<script") && !html.contains("alert(\"") && !html.contains('\u{0}'));
    assert!(
        html.contains("<h1>&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt; &amp; &#39;y&#39;\u{fffd}</h1>")
    );
}

#[test]
fn nothing_comes_from_elsewhere() {
    let html = page(vec![chart(vec![curve("a", vec![(0.0, 1.0), (1.0, 2.0)])])]);
    for word in ["http:", "https:", "url(", "@import", "src=", "href=", "<script", "<link"] {
        assert!(!html.contains(word), "{word}");
    }
}

#[test]
fn odd_curves_are_drawn_or_left_out() {
    let nan = f64::NAN;
    let odd = [
        vec![],
        vec![(nan, 1.0), (1.0, nan), (f64::INFINITY, 0.0)],
        vec![(5.0, 0.25)],
        vec![(0.0, 0.0)],
        vec![(0.0, 1.0), (1.0, nan), (2.0, 3.0)],
        vec![(1.0, 7.0), (2.0, 7.0), (3.0, 7.0)],
        vec![(1.0, -1e300), (2.0, 1e300)],
        vec![(1.0, 1e-310), (2.0, 2e-310)],
        vec![(1.0, 1e16), (2.0, 1e16 + 2.0)],
        vec![(1e9, f64::MAX), (1e9 + 1.0, -3.0)],
    ];
    for points in odd {
        let finite = points.iter().filter(|p| p.0.is_finite() && p.1.abs() <= 1e300).count();
        let html = page(vec![chart(vec![curve("", points.clone())])]);
        check_nesting(&html);
        assert!(!html.contains("NaN") && !html.contains("inf"), "{points:?}");
        assert_eq!(html.contains(">no data<"), finite == 0, "{points:?}");
        assert_eq!(html.matches("<circle").count(), finite, "{points:?}");
        assert_eq!(drawn(&html).iter().map(Vec::len).sum::<usize>(), finite, "{points:?}");
    }
}

#[test]
fn many_points_become_few_and_no_spike_is_lost() {
    let mut points: Vec<(f64, f64)> =
        (0..100_000).map(|i| (f64::from(i), (f64::from(i) / 9e3).sin())).collect();
    points[54_321].1 = 40.0;
    let few = thin_out(&points);
    assert!(few.len() <= MOST_POINTS && few.len() > MOST_POINTS / 2, "{}", few.len());
    assert!(few.contains(&points[0]) && few.contains(&points[54_321]) && few.contains(&points[99_999]));
    assert!(few.is_sorted_by(|a, b| a.0 < b.0));
    for n in [0, 1, 2, 499, 500, 501, 502, 999, 1000] {
        let few = thin_out(&points[..n]);
        assert!(few.len() <= MOST_POINTS && (n > MOST_POINTS || few.len() == n), "{n}: {}", few.len());
    }
    let html = page(vec![chart(vec![curve("a", points)])]);
    assert!(drawn(&html).iter().all(|line| line.len() <= MOST_POINTS));
    assert!(html.len() < 40_000, "{}", html.len());
}

#[test]
fn noise_is_smoothed_and_schedules_are_not() {
    let lines = |f: fn(u32) -> f64| {
        let html = page(vec![chart(vec![curve("", (0..200).map(|i| (f64::from(i), f(i))).collect())])]);
        (attributes(&html, "class").iter().filter(|c| **c == "faint").count(), drawn(&html))
    };
    let (faint, noisy) = lines(|i| f64::from(i * 7919 % 101));
    assert_eq!((faint, noisy.len()), (1, 2));
    let spread = |line: &[(f64, f64)]| {
        let ys = line[10..].iter().map(|p| p.1);
        ys.clone().fold(0.0, f64::max) - ys.fold(f64::MAX, f64::min)
    };
    assert!(spread(&noisy[1]) < 0.5 * spread(&noisy[0]));
    assert_eq!(lines(|i| f64::from(i.min(20)) * f64::from(200 - i)).0, 0);
    assert_eq!(lines(|_| 0.001).0, 0);
}

#[test]
fn ticks_are_round_numbers() {
    let labels = |axis: &Axis| axis.ticks.iter().map(|tick| axis.label(*tick)).collect::<Vec<_>>();
    assert_eq!(labels(&Axis::upwards([0.13, 0.94].into_iter(), 6)), ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
    assert_eq!(
        labels(&Axis::along([1.0, 1234.0].into_iter(), 8)),
        ["0", "200", "400", "600", "800", "1,000", "1,200"]
    );
    assert_eq!(labels(&Axis::along([1.0, 3.0].into_iter(), 8)), ["1", "2", "3"]);
    assert_eq!(
        labels(&Axis::upwards([-0.3, 0.25].into_iter(), 5)),
        ["\u{2212}0.4", "\u{2212}0.2", "0", "0.2", "0.4"]
    );
    let tiny = Axis::upwards([0.0, 2.5e-5].into_iter(), 6);
    assert_eq!(
        labels(&tiny),
        ["0", "5e\u{2212}6", "1e\u{2212}5", "1.5e\u{2212}5", "2e\u{2212}5", "2.5e\u{2212}5"]
    );
    for (value, text) in
        [(0.87654, "0.8765"), (43.2, "43.20"), (12345.6, "12,346"), (3e-5, "3e\u{2212}5"), (6.0, "6")]
    {
        assert_eq!(number(value), text);
    }
    assert_eq!(number(f64::NAN), "\u{2013}");
}

#[test]
fn names_share_colours_and_do_not_overlap() {
    let ends: Vec<Curve> = (0..10)
        .map(|i| curve(&format!("curve {}", i / 2), vec![(0.0, 0.0), (1.0, 1.0 + f64::from(i) * 1e-3)]))
        .collect();
    let html = page(vec![chart(ends)]);
    drawn(&html);
    let mut heights: Vec<f64> = Vec::new();
    for label in html.split("<text x=\"").skip(1) {
        heights.push(attributes(label, "y")[0].parse().unwrap());
    }
    assert_eq!(heights.len(), 5, "one label a name");
    assert!(heights.is_sorted_by(|a, b| b - a > 15.9), "{heights:?}");
    let many =
        (0..30).map(|i| curve(&format!("a long name of curve {i}"), vec![(0.0, f64::from(i))])).collect();
    let html = page(vec![chart(many)]);
    check_nesting(&html);
    assert_eq!(html.matches("<li ").count(), 30, "too many names for the margin stand below");
}

#[test]
fn confusions_say_what_was_taken_for_what() {
    let section = |classes: u64| {
        let row =
            |t: u64| (0..classes).map(|g| if t == g { 6 } else { u64::from(t == 0 && g == 1) * 2 }).collect();
        let labels = (0..classes).map(|k| format!("class <{k}>")).collect();
        confusion::section(&Confusion {
            title: "Test".into(),
            labels,
            counts: (0..classes).map(row).collect(),
        })
    };
    let small = section(3);
    check_nesting(&small);
    assert!(small.contains("title=\"class &lt;0&gt; predicted as class &lt;1&gt;: 2 of 8 (25.0 %)\">2</td>"));
    assert!(small.contains("style=\"--a:0.75\""));
    assert_eq!(small.matches("class=\"cell").count(), 9);
    let large = section(300);
    check_nesting(&large);
    assert!(large.contains("300 classes, 1800 of 1802 correct") && large.len() < 10_000);
    assert!(large.contains("<td>class &lt;0&gt;</td><td>class &lt;1&gt;</td><td class=\"number\">2</td>"));
    let ragged = Confusion { title: String::new(), labels: Vec::new(), counts: vec![vec![1], vec![2, 3]] };
    assert!(confusion::section(&ragged).contains("1 predicted as 0: 2 of 5 (40.0 %)"));
    assert!(confusion::section(&Confusion::default()).contains("no examples"));
}

fn records() -> Vec<Record> {
    let mut records = Vec::new();
    for step in 1..=100u64 {
        let x = step as f64;
        let train = Record::new(Kind::Train, step, 0.0).with("loss", 8.0 / x).with("lr", 1e-3 * x);
        records
            .push(train.with("grad_norm", f64::NAN).with("epoch", x / 50.0).with("tokens_per_s", 1000.0 + x));
        if step % 50 == 0 {
            let valid = Record::new(Kind::Valid, step, 0.0).with("loss", 1.0 / x).with("nll_clf", 1.0 / x);
            records
                .push(valid.with("accuracy", x / 200.0).with("precision/a&b", 0.5).with("recall/a&b", 0.25));
        }
    }
    records.push(Record::new(Kind::Test, 100, 0.0).with("accuracy", 0.375).with("recall/other", 0.125));
    records
}

#[test]
fn a_run_becomes_charts_and_tables() {
    let report = Report::of_run(&records(), Some(50), "run", vec!["words".into()]);
    let titles: Vec<&str> = report.charts.iter().map(|chart| chart.title.as_str()).collect();
    let expected = [
        "Loss",
        "Learning rate",
        "Gradient norm before clipping",
        "Validation: accuracy",
        "Validation: precision by class",
        "Validation: recall by class",
    ];
    assert_eq!(titles, expected, "nll_clf is the loss once more");
    assert_eq!(report.charts[0].curves[1], curve("validation", vec![(50.0, 0.02), (100.0, 0.01)]));
    let tables: Vec<&str> = report.tables.iter().map(|table| table.title.as_str()).collect();
    assert_eq!(tables, ["Training", "Metrics", "By class, step 50"]);
    assert!(report.tables[0].rows.contains(&vec!["tokens per second (median)".into(), "1,051".into()]));
    assert_eq!(report.tables[1].header, ["", "validation, step 50", "test, step 50"]);
    assert!(report.tables[1].rows.contains(&vec!["accuracy".into(), "0.2500".into(), "0.3750".into()]));
    assert_eq!(
        report.tables[2].rows[1],
        ["other", "\u{2013}", "\u{2013}", "\u{2013}", "\u{2013}", "0.1250", "\u{2013}"]
    );
    let html = report.html();
    check_nesting(&html);
    drawn(&html);
    assert!(html.contains("<td>a&amp;b</td>") && !html.contains("NaN"));
}

#[test]
fn runs_without_training_or_without_anything() {
    let evaluated = [Record::new(Kind::Valid, 0, 0.0).with("loss", 1.5).with("accuracy", 0.25)];
    let report = Report::of_run(&evaluated, None, "run", Vec::new());
    assert!(report.charts.is_empty());
    assert_eq!(report.tables.len(), 1);
    assert_eq!(report.tables[0].header, ["", "validation"]);
    let empty = Report::of_run(&[], None, "run", Vec::new());
    assert!(empty.tables.is_empty() && empty.charts.is_empty());
    check_nesting(&empty.html());
}

#[test]
fn writes_over_the_older_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("report.html");
    for title in ["first", "second"] {
        let report = Report { title: title.into(), ..Report::default() };
        report.write(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), report.html());
    }
}

#[test]
fn equal_ratios_are_equal_ways_where_a_chart_is_logarithmic() {
    let points = vec![(10.0, 1.0), (100.0, 2.0), (1000.0, 4.0)];
    let of = |along: Along| page(vec![Chart { along, ..chart(vec![curve("", points.clone())]) }]);
    let ways = |html: &str| {
        let places: Vec<f64> =
            attributes(html, "cx").iter().take(3).map(|place| place.parse().unwrap()).collect();
        (places[1] - places[0], places[2] - places[1])
    };
    let (first, second) = ways(&of(Along::Logarithmic));
    assert!((first - second).abs() < 0.2, "{first} {second}");
    let (first, second) = ways(&of(Along::Linear));
    assert!((second / first - 10.0).abs() < 0.1, "{first} {second}");
    for tick in [">10<", ">100<", ">1,000<"] {
        assert!(of(Along::Logarithmic).contains(tick), "{tick}");
    }
}
