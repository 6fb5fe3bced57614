//! The page: lanes as boxes placed by percentages, so that it fits any width without a script, and charts that stretch.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::record::{Life, Ms, Record, RoleInterval, Second, Span};

/// The scale of latencies, in microseconds.
const FASTEST: f64 = 300.0;
const SLOWEST: f64 = 10_000_000.0;
const STYLE: &str = include_str!("picture.css");

/// The page of a run.
pub fn draw(record: &Record) -> String {
    let page = Page { record };
    let mut body = String::new();
    page.head(&mut body);
    page.lanes(&mut body);
    page.list(&mut body);
    let title = escaped(&record.title);
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{title}</title><style>{STYLE}</style></head>\n<body>{body}</body></html>\n"
    )
}

struct Page<'a> {
    record: &'a Record,
}

impl Page<'_> {
    fn head(&self, out: &mut String) {
        let record = self.record;
        let _ = write!(out, "<header><h1>{}</h1>", escaped(&record.title));
        match &record.wrong {
            Some(wrong) if wrong.is_empty() => out.push_str("<p class=\"verdict good\">All checks hold</p>"),
            Some(wrong) => {
                let _ = write!(
                    out,
                    "<p class=\"verdict bad\">{} broken</p>",
                    count(wrong.len(), "rule")
                );
            }
            None => {}
        }
        out.push_str("<p class=\"facts\">");
        for (name, value) in &record.facts {
            let _ = write!(out, "<span>{} <b>{}</b></span> ", escaped(name), escaped(value));
        }
        out.push_str("</p></header>\n");
        for wrong in record.wrong.iter().flatten() {
            let _ = writeln!(out, "<pre class=\"wrong\">{}</pre>", escaped(wrong));
        }
        let answered: u64 = record.seconds.iter().map(|second| u64::from(second.answered)).sum();
        let failed: u64 = totals(&record.seconds).values().sum();
        let gaps = record.gaps();
        let longest = gaps.iter().map(|gap| gap.to - gap.from).max().unwrap_or(0);
        let without: Ms = gaps.iter().map(|gap| gap.to - gap.from).sum();
        let terms: std::collections::BTreeSet<i64> = record
            .instances
            .iter()
            .flat_map(|instance| &instance.stands)
            .filter_map(|span| match span.what {
                RoleInterval::Leader { term } => Some(term),
                _ => None,
            })
            .collect();
        let share = |part: u64, whole: u64| {
            if whole == 0 {
                0.0
            } else {
                100.0 * part as f64 / whole as f64
            }
        };
        let figures = [
            ("run", seconds(record.length), String::new()),
            ("faults", record.faults.len().to_string(), String::new()),
            ("terms", terms.len().to_string(), String::new()),
            (
                "without a leader",
                seconds(without),
                format!("{:.0} %, longest {}", share(without, record.length), seconds(longest)),
            ),
            ("calls answered", thousands(answered), String::new()),
            (
                "not answered",
                thousands(failed),
                format!("{:.1} %", share(failed, answered + failed)),
            ),
        ];
        out.push_str("<dl class=\"figures\">");
        for (name, value, more) in figures {
            let _ = write!(out, "<div><dt>{name}</dt><dd>{value}<small>{more}</small></dd></div>");
        }
        out.push_str("</dl>\n");
        for checked in &record.checked {
            let _ = writeln!(out, "<p class=\"checked\">{}</p>", escaped(checked));
        }
    }

    /// Everything over the one axis of time.
    fn lanes(&self, out: &mut String) {
        let record = self.record;
        // A long run is wider than a phone, and scrolls.
        let seconds = record.length.div_ceil(1_000);
        let _ = write!(out, "<div class=\"scroll\"><main style=\"--seconds:{seconds}\">");
        out.push_str("<div class=\"over\">");
        for fault in &record.faults {
            let _ = write!(out, "<i class=\"band\" style=\"{}\"></i>", self.place(fault));
        }
        for second in (0..=record.length / 1_000).step_by(self.tick()) {
            let _ = write!(
                out,
                "<i class=\"tick\" style=\"left:{:.3}%\"></i>",
                self.left(second * 1_000)
            );
        }
        out.push_str("</div>");
        self.faults(out);
        self.instances(out);
        self.gaps(out);
        self.members(out);
        self.calls(out);
        self.latencies(out);
        self.axis(out);
        out.push_str("</main></div>\n");
    }

    fn faults(&self, out: &mut String) {
        // As few rows as there are faults at once.
        let mut rows: Vec<Ms> = Vec::new();
        let mut placed = Vec::new();
        for (number, fault) in self.record.faults.iter().enumerate() {
            let row = rows.iter().position(|until| *until <= fault.from).unwrap_or(rows.len());
            if row == rows.len() {
                rows.push(0);
            }
            // No box is drawn shorter than its number.
            rows[row] = fault.to.max(fault.from + self.record.length / 45);
            placed.push((row, number, fault));
        }
        let _ = write!(
            out,
            "<section><h2>What was done</h2><div class=\"lane faults\" style=\"height:{}px\">",
            rows.len().max(1) * 22
        );
        for (row, number, fault) in placed {
            let _ = write!(
                out,
                "<span class=\"fault\" style=\"{};top:{}px\" title=\"{}\"><b>{}</b> <em>{}</em></span>",
                self.place(fault),
                row * 22,
                escaped(&self.told(fault)),
                number + 1,
                escaped(&fault.what)
            );
        }
        out.push_str("</div></section>\n");
    }

    fn instances(&self, out: &mut String) {
        out.push_str("<section><h2>Who led</h2>");
        let (mut kinds, mut terms) = (BTreeMap::new(), 0);
        for instance in &self.record.instances {
            for stand in &instance.stands {
                if let RoleInterval::Leader { term } = stand.what {
                    kinds.entry(term).or_insert(0);
                }
            }
        }
        // Terms that follow each other are told apart by their shade.
        for shade in kinds.values_mut() {
            *shade = terms % 2;
            terms += 1;
        }
        for (number, instance) in self.record.instances.iter().enumerate() {
            let _ = write!(
                out,
                "<h3><i class=\"dot of{}\"></i>{}</h3><div class=\"lane\">",
                number % 6,
                escaped(&instance.name)
            );
            for stand in &instance.stands {
                let (class, word, told) = match stand.what {
                    RoleInterval::Undetermined => {
                        ("undetermined".to_owned(), String::new(), "knows no leader".to_owned())
                    }
                    RoleInterval::Leader { term } => (
                        format!("leader of{} shade{}", number % 6, kinds.get(&term).unwrap_or(&0)),
                        format!("term {term}"),
                        format!("leads in term {term}"),
                    ),
                    RoleInterval::Follower { leader, term } => {
                        let name = leader.and_then(|leader| self.record.instances.get(leader));
                        let name = name.map_or("somebody else", |leader| &leader.name);
                        let class = match leader {
                            Some(leader) => {
                                format!("follower of{} shade{}", leader % 6, kinds.get(&term).unwrap_or(&0))
                            }
                            None => "follower".to_owned(),
                        };
                        (class, String::new(), format!("follows {name} in term {term}"))
                    }
                };
                self.boxed(
                    out,
                    &class,
                    stand.from,
                    stand.to,
                    &word,
                    &format!("{} {told}", instance.name),
                );
            }
            self.lives(out, &instance.name, &instance.lives);
            out.push_str("</div>");
        }
        out.push_str("</section>\n");
    }

    fn gaps(&self, out: &mut String) {
        out.push_str("<h3>without a leader</h3><div class=\"lane thin\">");
        for gap in self.record.gaps() {
            let lasts = gap.to - gap.from;
            // Those that last are told by a number beside them; handovers of milliseconds are but a line.
            let word = if lasts >= 400 { seconds(lasts) } else { String::new() };
            let class = if lasts < self.record.length / 30 {
                "gap short"
            } else {
                "gap"
            };
            let _ = write!(
                out,
                "<span class=\"{class}\" style=\"{}\" title=\"nobody led for {}\"><b>{word}</b></span>",
                self.place(&gap),
                seconds(lasts)
            );
        }
        out.push_str("</div>\n");
    }

    fn members(&self, out: &mut String) {
        out.push_str("<section><h2>etcd</h2>");
        for member in &self.record.members {
            let _ = write!(out, "<h3>{}</h3><div class=\"lane thin\">", escaped(&member.name));
            for life in member.lives.iter().filter(|life| life.what == Life::Up) {
                self.boxed(out, "up", life.from, life.to, "", &format!("{} runs", member.name));
            }
            self.lives(out, &member.name, &member.lives);
            out.push_str("</div>");
        }
        out.push_str("</section>\n");
    }

    /// What a process is but up.
    fn lives(&self, out: &mut String, name: &str, lives: &[Span<Life>]) {
        for life in lives {
            let (class, word) = match life.what {
                Life::Up => continue,
                Life::Down => ("down", "down"),
                Life::Ending => ("ending", "ending"),
                Life::Paused => ("paused", "paused"),
                Life::CutOff => ("cutoff", "cut off"),
            };
            self.boxed(out, class, life.from, life.to, word, &format!("{name}: {word}"));
        }
    }

    fn boxed(&self, out: &mut String, class: &str, from: Ms, to: Ms, word: &str, told: &str) {
        let span = Span { from, to, what: () };
        let _ = write!(
            out,
            "<span class=\"{class}\" style=\"{}\" title=\"{}, {}\"><em>{}</em></span>",
            self.place(&span),
            escaped(told),
            range(from, to),
            escaped(word)
        );
    }

    fn calls(&self, out: &mut String) {
        let record = self.record;
        let totals = totals(&record.seconds);
        let most = record.seconds.iter().map(sum).max().unwrap_or(0).max(1);
        out.push_str("<section><h2>Calls that ended, a second</h2>");
        let _ = write!(out, "<p class=\"scale\">up to {most}</p>{}", self.chart());
        for (at, second) in record.seconds.iter().enumerate() {
            let parts = [("answered", second.answered)]
                .into_iter()
                .chain(second.failed.iter().map(|(why, count)| (code_class(why), *count)));
            let mut base = 0;
            for (class, count) in parts {
                let height = 100.0 * f64::from(count) / f64::from(most);
                let y = 100.0 - 100.0 * f64::from(base) / f64::from(most) - height;
                let width = self.width_of(at);
                let _ = write!(
                    out,
                    "<rect class=\"{class}\" x=\"{:.2}\" y=\"{y:.2}\" width=\"{:.2}\" height=\"{height:.2}\"/>",
                    at as f64 + 0.08 * width,
                    0.84 * width
                );
                base += count;
            }
        }
        out.push_str("</svg><p class=\"key\"><span><i class=\"box answered\"></i>answered</span>");
        for (why, count) in &totals {
            let _ = write!(
                out,
                "<span><i class=\"box {}\"></i>{} {}</span>",
                code_class(why),
                escaped(why),
                thousands(*count)
            );
        }
        out.push_str("</p></section>\n");
    }

    fn latencies(&self, out: &mut String) {
        out.push_str("<section><h2>How long answered calls took</h2>");
        let _ = write!(out, "<div class=\"plot\">{}", self.chart());
        for (_, micros) in scale() {
            let y = height_of(micros);
            let _ = write!(
                out,
                "<line class=\"rule\" x1=\"0\" x2=\"{:.2}\" y1=\"{y:.2}\" y2=\"{y:.2}\"/>",
                self.length_in_seconds()
            );
        }
        for (class, pick) in [
            ("max", (|second: &Second| second.max) as fn(&Second) -> u64),
            ("p99", |second| second.p99),
            ("p50", |second| second.p50),
        ] {
            let mut path = String::new();
            let mut pen = 'M';
            for (at, second) in self.record.seconds.iter().enumerate() {
                if second.answered == 0 {
                    // Nothing was answered: the line breaks.
                    pen = 'M';
                    continue;
                }
                let x = at as f64 + self.width_of(at) / 2.0;
                let _ = write!(path, "{pen}{x:.2} {:.2}", height_of(pick(second) as f64));
                pen = 'L';
            }
            let _ = write!(out, "<path class=\"{class}\" d=\"{path}\"/>");
        }
        out.push_str("</svg>");
        for (word, micros) in scale() {
            let _ = write!(out, "<small style=\"top:{:.1}%\">{word}</small>", height_of(micros));
        }
        out.push_str(
            "</div><p class=\"key\"><span><i class=\"line p50\"></i>median</span><span><i class=\"line p99\"></i>99 of 100</span>\
             <span><i class=\"line max\"></i>longest</span></p></section>\n",
        );
    }

    fn axis(&self, out: &mut String) {
        out.push_str("<div class=\"axis\">");
        for second in (0..=self.record.length / 1_000).step_by(self.tick()) {
            let left = self.left(second * 1_000);
            if left <= 97.0 {
                let _ = write!(out, "<span style=\"left:{left:.3}%\">{second} s</span>");
            }
        }
        out.push_str("</div>");
    }

    /// The faults again, to be read.
    fn list(&self, out: &mut String) {
        out.push_str(
            "<p class=\"key lanes\"><span><i class=\"box of0\"></i>leads</span><span><i class=\"box faint of0\"></i>follows it</span>\
             <span><i class=\"box undetermined\"></i>knows no leader</span><span><i class=\"box down\"></i>down</span>\
             <span><i class=\"box paused\"></i>paused</span><span><i class=\"box cutoff\"></i>cut off</span>\
             <span><i class=\"box gap\"></i>nobody leads</span></p>",
        );
        if self.record.faults.is_empty() {
            return;
        }
        out.push_str("<ol class=\"list\">");
        for fault in &self.record.faults {
            let _ = write!(
                out,
                "<li><time>{}</time>{}</li>",
                range(fault.from, fault.to),
                escaped(&fault.what)
            );
        }
        out.push_str("</ol>\n");
    }

    fn told(&self, fault: &Span<String>) -> String {
        format!("{}, {}", fault.what, range(fault.from, fault.to))
    }

    /// A chart that is a second wide for each second, whatever it is stretched to.
    fn chart(&self) -> String {
        format!(
            "<svg class=\"chart\" viewBox=\"0 0 {:.2} 100\" preserveAspectRatio=\"none\" aria-hidden=\"true\">",
            self.length_in_seconds()
        )
    }

    fn length_in_seconds(&self) -> f64 {
        (self.record.length.max(1)) as f64 / 1_000.0
    }

    /// The last second may be cut short.
    fn width_of(&self, second: usize) -> f64 {
        (self.length_in_seconds() - second as f64).clamp(0.0, 1.0)
    }

    fn left(&self, at: Ms) -> f64 {
        100.0 * at.min(self.record.length) as f64 / self.record.length.max(1) as f64
    }

    fn place<T>(&self, span: &Span<T>) -> String {
        let left = self.left(span.from);
        format!("left:{left:.3}%;width:{:.3}%", self.left(span.to) - left)
    }

    /// Every how many seconds there is a line.
    fn tick(&self) -> usize {
        let seconds = self.record.length / 1_000;
        [1, 2, 5, 10, 20, 30, 60, 120, 300]
            .into_iter()
            .find(|tick| seconds / tick <= 12)
            .and_then(|tick| usize::try_from(tick).ok())
            .unwrap_or(600)
    }
}

fn scale() -> [(&'static str, f64); 4] {
    [("1 ms", 1e3), ("10 ms", 1e4), ("100 ms", 1e5), ("1 s", 1e6)]
}

/// Of a time on the logarithmic scale, from the top, in percent.
fn height_of(micros: f64) -> f64 {
    let place = (micros.max(FASTEST) / FASTEST).ln() / (SLOWEST / FASTEST).ln();
    100.0 - 100.0 * place.min(1.0)
}

fn sum(second: &Second) -> u32 {
    second.answered + second.failed.values().sum::<u32>()
}

fn totals(seconds: &[Second]) -> BTreeMap<String, u64> {
    let mut totals = BTreeMap::new();
    for (why, count) in seconds.iter().flat_map(|second| &second.failed) {
        *totals.entry(why.clone()).or_default() += u64::from(*count);
    }
    totals
}

fn code_class(why: &str) -> &'static str {
    match why {
        "UNAVAILABLE" => "unavailable",
        "DEADLINE_EXCEEDED" | "CANCELLED" => "deadline",
        "no connection" => "unconnected",
        _ => "other",
    }
}

fn seconds(ms: Ms) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..100_000 => format!("{:.1} s", ms as f64 / 1_000.0),
        _ => format!("{} s", ms / 1_000),
    }
}

fn range(from: Ms, to: Ms) -> String {
    format!("{:.1}\u{2013}{:.1} s", from as f64 / 1_000.0, to as f64 / 1_000.0)
}

fn count(many: usize, what: &str) -> String {
    if many == 1 {
        format!("1 {what}")
    } else {
        format!("{many} {what}s")
    }
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push('\u{2009}');
        }
        text.push(digit);
    }
    text
}

/// A text as it stands in a page.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::record::{Instance, Member};
    use super::*;

    fn span<T>(from: Ms, to: Ms, what: T) -> Span<T> {
        Span { from, to, what }
    }

    fn record() -> Record {
        Record {
            name: "test".to_owned(),
            title: "A <test>".to_owned(),
            facts: vec![("seed".to_owned(), "7".to_owned())],
            length: 10_000,
            instances: vec![
                Instance {
                    name: "one".to_owned(),
                    lives: vec![span(0, 4_000, Life::Up), span(4_000, 6_000, Life::Down)],
                    stands: vec![span(0, 4_000, RoleInterval::Leader { term: 12 })],
                },
                Instance {
                    name: "two".to_owned(),
                    lives: vec![span(0, 10_000, Life::Up)],
                    stands: vec![
                        span(
                            0,
                            5_000,
                            RoleInterval::Follower {
                                leader: Some(0),
                                term: 12,
                            },
                        ),
                        span(5_000, 6_500, RoleInterval::Undetermined),
                        span(6_500, 10_000, RoleInterval::Leader { term: 30 }),
                    ],
                },
            ],
            members: vec![Member {
                name: "etcd-0".to_owned(),
                lives: vec![span(0, 9_000, Life::Up), span(9_000, 10_000, Life::Paused)],
            }],
            faults: vec![span(4_000, 6_000, "SIGKILL \"one\" & more".to_owned())],
            seconds: vec![Second::of(&[Ok(1_000), Ok(2_000), Err("UNAVAILABLE".to_owned())]); 10],
            checked: vec!["3 calls checked".to_owned()],
            wrong: None,
        }
    }

    #[test]
    fn everything_is_at_its_place() {
        let page = draw(&record());
        for part in [
            "<h1>A &lt;test&gt;</h1>",
            "seed <b>7</b>",
            "class=\"leader of0 shade0\" style=\"left:0.000%;width:40.000%\"",
            "class=\"follower of0 shade0\" style=\"left:0.000%;width:50.000%\"",
            "class=\"leader of1 shade1\" style=\"left:65.000%;width:35.000%\"",
            "class=\"undetermined\" style=\"left:50.000%;width:15.000%\"",
            "class=\"down\" style=\"left:40.000%;width:20.000%\"",
            "class=\"paused\" style=\"left:90.000%;width:10.000%\"",
            "<b>1</b> <em>SIGKILL &quot;one&quot; &amp; more</em>",
            "class=\"gap\" style=\"left:40.000%;width:25.000%\" title=\"nobody led for 2.5 s\"",
            "UNAVAILABLE 10",
            "3 calls checked",
        ] {
            assert!(page.contains(part), "{part} is not in {page}");
        }
        assert!(!page.contains("verdict good"), "nobody has looked");
    }

    #[test]
    fn it_needs_nothing_else() {
        let page = draw(&record());
        for part in ["<script", "http:", "https:", "<link", "src=", "url(", "@import"] {
            assert!(!page.contains(part), "{part}");
        }
    }

    #[test]
    fn the_verdict_is_told_with_what_is_wrong() {
        let verdict = |wrong: &[&str]| {
            draw(&Record {
                wrong: Some(wrong.iter().map(|&wrong| wrong.to_owned()).collect()),
                ..record()
            })
        };
        assert!(verdict(&[]).contains("All checks hold"));
        let bad = verdict(&["a < b", "c"]);
        assert!(bad.contains("2 rules broken") && bad.contains("a &lt; b"), "{bad}");
    }

    #[test]
    fn an_empty_run_is_a_page_as_well() {
        let page = draw(&Record::default());
        assert!(page.ends_with("</html>\n") && !page.contains("NaN"), "{page}");
    }

    #[test]
    fn latencies_are_placed_by_their_logarithm() {
        assert_eq!(height_of(0.0), 100.0);
        assert_eq!(height_of(SLOWEST * 2.0), 0.0);
        let (one, ten, hundred) = (height_of(1e3), height_of(1e4), height_of(1e5));
        assert!(((one - ten) - (ten - hundred)).abs() < 1e-9);
    }
}
