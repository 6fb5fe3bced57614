//! The page with the plots: for each thing that was measured where ours stands beside the peer's.
use std::fmt::Write as _;

use curator_harness::timeline::escaped;

use super::comparison::{Better, Comparison, Ratio};
use super::summary::parts;

/// The ratios at the ends of the scale, which is logarithmic: a half is as far from one as two are.
const ENDS: (f64, f64) = (0.1, 10.0);

/// The whole page, with nothing outside of it.
pub(super) fn page(all: &[Comparison], machine: &str) -> String {
    let mut rows = String::new();
    for part in parts(all) {
        let _ = write!(rows, "<h2>{}</h2>", escaped(part));
        for comparison in all.iter().filter(|comparison| comparison.part == part) {
            match comparison.ratio() {
                Some(ratio) => row(comparison, ratio, &mut rows),
                None => {
                    let (what, said) = (escaped(&comparison.what), escaped(&comparison.said()));
                    let _ = write!(
                        rows,
                        "<div class=\"row\"><span>{what}</span><span class=\"said\">{said}</span></div>"
                    );
                }
            }
        }
    }
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>Beside the peers</title><style>{STYLE}</style><h1>Beside the peers</h1>\
         <p>Measured on {}. Each bar goes from the least to the most that ours was beside the peer in a round; the mark is the \
         median. On the green side ours is the better one; what is grey was now better and now worse. The \
         scale goes from a tenth over level to ten times.</p>{rows}</html>\n",
        escaped(machine)
    )
}

const STYLE: &str = "
:root{color-scheme:light dark;--line:#8886;--good:#2a9d5c;--bad:#d1495b;--level:#888}
body{font:15px/1.4 system-ui,sans-serif;max-width:60rem;margin:1.5rem auto;padding:0 1rem}
h2{margin:1.6rem 0 .4rem;font-size:1.1rem}
.row{display:grid;grid-template-columns:minmax(0,1fr) minmax(0,1.2fr) 5.5rem;gap:.2rem 1rem;align-items:center;
padding:.25rem 0;border-top:1px solid var(--line)}
.row small{opacity:.7;display:block}
.row .said{grid-column:2/4;text-align:right;font-variant-numeric:tabular-nums}
.row b{text-align:right;font-variant-numeric:tabular-nums}
svg{width:100%;height:22px;display:block}
@media(max-width:40rem){.row{grid-template-columns:minmax(0,1fr) 4.5rem}.row>svg{grid-column:1/3;grid-row:2}.row .said{grid-column:1/3}}
";

/// Where a ratio stands, in hundredths of the width; what is better for us is on the right.
fn place(ratio: f64, better: Better) -> f64 {
    let (least, most) = (ENDS.0.log10(), ENDS.1.log10());
    let at = ratio.clamp(ENDS.0, ENDS.1).log10();
    let good = if better == Better::Less { -at } else { at };
    (good - least) / (most - least) * 100.0
}

fn row(comparison: &Comparison, ratio: Ratio, out: &mut String) {
    let of = |ratio| place(ratio, comparison.better);
    let (one, other, median) = (of(ratio.least), of(ratio.most), of(ratio.median));
    let (left, width) = (one.min(other), (one - other).abs().max(0.6));
    let (colour, word) = match comparison.ahead() {
        Some(true) => ("--good", "ahead"),
        Some(false) => ("--bad", "behind"),
        None => ("--level", "level"),
    };
    let peer = comparison.peer.as_ref().map_or("", |(who, _)| who);
    let _ = write!(
        out,
        "<div class=\"row\"><span>{}<small>beside {}</small></span>\
         <svg viewBox=\"0 0 100 10\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{word}\">\
         <rect x=\"50\" width=\"50\" height=\"10\" fill=\"var(--good)\" opacity=\".08\"/>\
         <rect width=\"50\" height=\"10\" fill=\"var(--bad)\" opacity=\".08\"/>\
         <rect x=\"{left:.2}\" y=\"3.5\" width=\"{width:.2}\" height=\"3\" fill=\"var({colour})\" opacity=\".5\"/>\
         <rect x=\"{:.2}\" y=\"1\" width=\".8\" height=\"8\" fill=\"var({colour})\"/>\
         <rect x=\"49.9\" width=\".2\" height=\"10\" fill=\"var(--line)\"/></svg>\
         <b style=\"color:var({colour})\">{:.2}</b></div>",
        escaped(&comparison.what),
        escaped(peer),
        median - 0.4,
        ratio.median,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_better_is_on_the_right() {
        assert_eq!(place(1.0, Better::Less), 50.0);
        assert!(place(0.5, Better::Less) > 50.0 && place(0.5, Better::More) < 50.0);
        assert!((place(0.5, Better::Less) - place(2.0, Better::More)).abs() < 1e-9);
        assert_eq!(place(1_000.0, Better::More), 100.0);
    }

    #[test]
    fn a_page_shows_each_beside_its_peer_if_it_has_one() {
        let with = |what: &str, peer: Option<(&'static str, Vec<f64>)>| Comparison {
            part: "a <part>".into(),
            what: what.into(),
            unit: "s",
            better: Better::Less,
            ours: vec![1.0],
            peer,
        };
        let all = [with("first", Some(("Go's", vec![2.0]))), with("second", None)];
        let page = page(&all, "a machine");
        assert!(
            page.contains("<h2>a &lt;part&gt;</h2>") && page.contains("first<small>beside Go's"),
            "{page}"
        );
        assert!(page.contains(">0.50</b>"), "{page}");
        let plain = "<span>second</span><span class=\"said\">1.00 (1.00 to 1.00) s</span>";
        assert!(page.contains(plain), "{page}");
    }
}
