//! The page with the picture: what each storm cost the leader, over what was told in it.
use std::fmt::Write as _;

use curator_harness::timeline::escaped;

use super::Storm;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 360.0;
/// For the words at the sides.
const MARGIN: f64 = 60.0;

/// What is drawn of each storm.
struct Drawn {
    title: &'static str,
    unit: &'static str,
    of: fn(&Storm) -> f64,
}

const DRAWN: [Drawn; 4] = [
    Drawn {
        title: "The leader's processor time",
        unit: "s",
        of: |storm| storm.leader_cpu.as_secs_f64(),
    },
    Drawn {
        title: "Until all are told of all",
        unit: "s",
        of: |storm| storm.number("seconds"),
    },
    Drawn {
        title: "The most memory of an instance",
        unit: "MiB",
        of: |storm| storm.peak as f64 / f64::from(1 << 20),
    },
    Drawn {
        title: "An owner's calls, p99",
        unit: "ms",
        of: |storm| storm.number("owner_p99_ms"),
    },
];

/// The whole page, with nothing outside of it.
pub(super) fn page(storms: &[Storm], version: &str) -> String {
    let mut parts = String::new();
    for drawn in &DRAWN {
        let _ = write!(
            parts,
            "<h2>{} ({})</h2>{}",
            drawn.title,
            drawn.unit,
            chart(storms, drawn)
        );
    }
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>The storm</title><style>{STYLE}</style><h1>The storm</h1><p>etcd {}. Both scales are logarithmic; to the right, \
         the bytes that all clients were told together, in MB. <b class=\"start\">at the start</b>, <b class=\"step-down\">after a \
         planned end of the leader</b>, <b class=\"kill\">after it was killed</b>.</p>{parts}</html>\n",
        escaped(version)
    )
}

const STYLE: &str = "
:root{color-scheme:light dark;--line:#8886}
body{font:15px/1.4 system-ui,sans-serif;max-width:44rem;margin:1.5rem auto;padding:0 1rem}
h2{margin:1.4rem 0 .2rem;font-size:1.05rem}
svg{width:100%;height:auto}text{font-size:11px;fill:currentColor}line{stroke:var(--line)}
.start{fill:#3f7fbf;color:#3f7fbf}.step-down{fill:#2a9d5c;color:#2a9d5c}.kill{fill:#d1495b;color:#d1495b}
";

fn chart(storms: &[Storm], drawn: &Drawn) -> String {
    let points: Vec<_> = storms
        .iter()
        .map(|storm| (storm.number("bytes") / 1e6, (drawn.of)(storm), storm))
        .filter(|(x, y, _)| *x > 0.0 && *y > 0.0)
        .collect();
    let scale = |of: &dyn Fn(&(f64, f64, &Storm)) -> f64| {
        let all = points.iter().map(of);
        let least = all.clone().fold(f64::INFINITY, f64::min).log10().floor();
        let most = all.fold(0.0, f64::max).log10().ceil();
        if least < most {
            (least, most)
        } else {
            (least, least + 1.0)
        }
    };
    if points.is_empty() {
        return "<p>Nothing was measured.</p>".to_owned();
    }
    let (xs, ys) = (scale(&|point| point.0), scale(&|point| point.1));
    let x = |value: f64| MARGIN + (value.log10() - xs.0) / (xs.1 - xs.0) * (WIDTH - 2.0 * MARGIN);
    let y = |value: f64| HEIGHT - MARGIN / 2.0 - (value.log10() - ys.0) / (ys.1 - ys.0) * (HEIGHT - MARGIN);
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
        drawn.title
    );
    let decades = |(least, most): (f64, f64)| {
        let steps = (most - least).round() as i32;
        (0..=steps).map(move |step| 10_f64.powf(least + f64::from(step)))
    };
    for at in decades(xs) {
        let (left, top, bottom) = (x(at), MARGIN / 2.0, HEIGHT - MARGIN / 2.0);
        let _ = write!(
            svg,
            "<line x1=\"{left:.1}\" x2=\"{left:.1}\" y1=\"{top:.1}\" y2=\"{bottom:.1}\"/>\
             <text x=\"{left:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{at}</text>",
            bottom + 16.0
        );
    }
    for at in decades(ys) {
        let level = y(at);
        let _ = write!(
            svg,
            "<line x1=\"{MARGIN}\" x2=\"{:.1}\" y1=\"{level:.1}\" y2=\"{level:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{at}</text>",
            WIDTH - MARGIN,
            MARGIN - 6.0,
            level + 4.0
        );
    }
    for (bytes, value, storm) in &points {
        let _ = write!(
            svg,
            "<circle class=\"{}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"5\"><title>{} x {}, {}: {value:.2} {}</title></circle>",
            storm.before.name(),
            x(*bytes),
            y(*value),
            storm.nodes,
            storm.watchers,
            storm.before.name(),
            drawn.unit
        );
    }
    svg.push_str("</svg>");
    svg
}
