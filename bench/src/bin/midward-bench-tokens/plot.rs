//! Lookups per second over the number of profiles, as SVG.

use std::fmt::Write as _;

use crate::lookups::Series;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 30.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = 60.0;
const COLOURS: [&str; 3] = ["#1f6feb", "#d1570b", "#57606a"];

/// Both axes: profiles by powers of ten, millions of lookups per second from zero.
pub(crate) fn lookups(series: &[Series]) -> String {
    let rate = |nanos: f64| 1e3 / nanos;
    let highest = series.iter().flat_map(|line| &line.points).map(|(_, nanos)| rate(*nanos)).fold(10.0, f64::max);
    let step = if highest > 25.0 { 10.0 } else { 5.0 };
    let top = (highest / step).ceil() * step;
    let x = |power: f64| LEFT + power / 5.0 * (WIDTH - LEFT - RIGHT);
    let y = |rate: f64| HEIGHT - BOTTOM - rate / top * (HEIGHT - TOP - BOTTOM);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"24\" font-size=\"16\">Warm lookups per second, one thread</text>\n"
    );
    let mut mark = 0.0;
    while mark <= top {
        let at = y(mark);
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#d8dee4\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{mark:.0} M/s</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            at + 4.0
        );
        mark += step;
    }
    // The goal: 100 ns.
    let goal = y(rate(100.0));
    let _ = writeln!(
        svg,
        "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{goal:.1}\" y2=\"{goal:.1}\" stroke=\"#cf222e\" stroke-dasharray=\"6 4\"/>\
         <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#cf222e\">goal: 100 ns</text>",
        WIDTH - RIGHT,
        WIDTH - RIGHT,
        goal + 16.0
    );
    for (power, label) in ["1", "10", "100", "1,000", "10,000", "100,000"].iter().enumerate() {
        let at = x(f64::from(u8::try_from(power).unwrap_or(0)));
        let _ =
            writeln!(svg, "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>", HEIGHT - BOTTOM + 20.0);
    }
    let _ = writeln!(svg, "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">profiles</text>", WIDTH / 2.0, HEIGHT - 14.0);
    for ((line, colour), row) in series.iter().zip(COLOURS).zip(0_u8..) {
        #[expect(clippy::cast_precision_loss, reason = "a count of profiles")]
        let points: Vec<String> = line
            .points
            .iter()
            .map(|(count, nanos)| format!("{:.1},{:.1}", x((*count as f64).log10()), y(rate(*nanos))))
            .collect();
        let _ = writeln!(
            svg,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/>",
            points.join(" ")
        );
        for point in &points {
            if let Some((cx, cy)) = point.split_once(',') {
                let _ = writeln!(svg, "<circle cx=\"{cx}\" cy=\"{cy}\" r=\"3.5\" fill=\"{colour}\"/>");
            }
        }
        let at = LEFT + f64::from(row) * 210.0;
        let _ = writeln!(svg, "<text x=\"{at:.1}\" y=\"46\" fill=\"{colour}\">{}</text>", line.name);
    }
    svg.push_str("</svg>\n");
    svg
}
