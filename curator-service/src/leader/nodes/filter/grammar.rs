//! Generates well-formed filters from bytes, for fuzzing: random text would be refused by the parser.
//!
//! Each byte makes a choice; when no bytes are left, the shortest production is used.

use std::fmt::Write as _;

/// Maximum depth.
const DEPTH: u32 = 12;

/// The filter that these bytes generate.
pub(crate) fn written(tape: &[u8]) -> String {
    let mut writer = Writer {
        tape,
        text: String::new(),
    };
    writer.truth(DEPTH);
    writer.text
}

struct Writer<'a> {
    tape: &'a [u8],
    text: String,
}

const VARIABLES: [&str; 4] = ["a", "b", "pair", "x"];

impl Writer<'_> {
    /// Chooses one of several alternatives.
    fn choice(&mut self, among: usize) -> usize {
        let Some((first, rest)) = self.tape.split_first() else {
            return 0;
        };
        self.tape = rest;
        // A longer filter would be refused.
        if self.text.len() > crate::leader::nodes::filter::MAX_FILTER_BYTES {
            0
        } else {
            usize::from(*first) % among
        }
    }

    fn put(&mut self, text: &str) {
        self.text.push_str(text);
    }

    fn variable(&mut self) {
        let name = VARIABLES[self.choice(VARIABLES.len())];
        self.put(name);
    }

    /// A macro with a variable: `.map(a, ...)`.
    fn loops(&mut self, method: &str, depth: u32, inner: fn(&mut Self, u32)) {
        self.put(".");
        self.put(method);
        self.put("(");
        self.variable();
        self.put(", ");
        inner(self, depth);
        self.put(")");
    }

    fn between(&mut self, sign: &str, depth: u32, inner: fn(&mut Self, u32)) {
        self.put("(");
        inner(self, depth);
        self.put(sign);
        inner(self, depth);
        self.put(")");
    }

    fn truth(&mut self, depth: u32) {
        let Some(depth) = depth.checked_sub(1) else {
            return self.put("true");
        };
        match self.choice(15) {
            0 => self.put("true"),
            1 => self.between(" && ", depth, Self::truth),
            2 => self.between(" || ", depth, Self::truth),
            3 => {
                self.put("!");
                self.truth(depth);
            }
            4 => {
                let sign = [" == ", " != ", " < ", " >= ", " in "][self.choice(5)];
                self.between(sign, depth, Self::any);
            }
            5 => {
                self.list(depth);
                let method = ["all", "exists", "exists_one"][self.choice(3)];
                self.loops(method, depth, Self::truth);
            }
            6 => {
                self.text_value(depth);
                let method = ["startsWith", "endsWith", "contains", "matches"][self.choice(4)];
                self.put(".");
                self.put(method);
                self.put("(");
                self.text_value(depth);
                self.put(")");
            }
            7 => {
                let field = ["roles.consensus_member", "status", "labels", "nothing", "tpm_usage"][self.choice(5)];
                self.put("has(node.");
                self.put(field);
                self.put(")");
            }
            8 => {
                self.put("(");
                self.truth(depth);
                self.put(" ? ");
                self.truth(depth);
                self.put(" : ");
                self.truth(depth);
                self.put(")");
            }
            9 => {
                self.put("size(");
                self.list(depth);
                self.put(") == 1");
            }
            10 => {
                self.any(depth);
                self.put(" == ");
                self.any(depth);
            }
            // The grown value is used as a whole.
            11 => {
                let from = self.text.len();
                self.grown(depth);
                let grown = self.text[from..].to_owned();
                let more = [" == ", " != ", " in ["][self.choice(3)];
                self.put(more);
                self.put(&grown);
                self.put(if more == " in [" { "]" } else { "" });
            }
            12 => {
                let of = ["string(", "size("][self.choice(2)];
                self.put(of);
                self.grown(depth);
                self.put(if of == "size(" { ") == 1" } else { ") == ''" });
            }
            13 => {
                self.grown(depth);
                self.put("[0].matches('(x+x+)+y')");
            }
            _ => self.put("node.state == NODE_STATE_UP"),
        }
    }

    fn any(&mut self, depth: u32) {
        match self.choice(7) {
            0 => self.number(depth),
            1 => self.text_value(depth),
            2 => self.list(depth),
            3 => self.variable(),
            4 => self.map(depth),
            5 => self.put("node"),
            _ => self.truth(depth),
        }
    }

    fn number(&mut self, depth: u32) {
        let Some(depth) = depth.checked_sub(1) else {
            return self.put("1");
        };
        match self.choice(7) {
            0 => self.put("1"),
            1 => self.put("9223372036854775807"),
            2 => {
                let sign = [" + ", " - ", " * ", " / ", " % "][self.choice(5)];
                self.between(sign, depth, Self::number);
            }
            3 => {
                self.put("size(");
                self.any(depth);
                self.put(")");
            }
            4 => {
                let of = ["int", "uint", "double"][self.choice(3)];
                self.put(of);
                self.put("(");
                self.any(depth);
                self.put(")");
            }
            5 => self.put("node.health"),
            _ => {
                let number = self.choice(256);
                let _ = write!(self.text, "{number}");
            }
        }
    }

    fn text_value(&mut self, depth: u32) {
        let Some(depth) = depth.checked_sub(1) else {
            return self.put("''");
        };
        match self.choice(9) {
            0 => self.put("''"),
            1 => self.put("node.id"),
            2 => self.between(" + ", depth, Self::text_value),
            3 => {
                self.put("string(");
                self.any(depth);
                self.put(")");
            }
            4 => {
                let length = self.choice(200);
                let text = format!("'{}'", "x".repeat(length));
                self.put(&text);
            }
            5 => self.put("'(a*)*b{1,50}.*'"),
            6 => self.put("b'\\xff\\x00'"),
            7 => self.put("pair.key"),
            _ => self.put("'\\u00e4%'"),
        }
    }

    fn list(&mut self, depth: u32) {
        let Some(depth) = depth.checked_sub(1) else {
            return self.put("[1]");
        };
        match self.choice(8) {
            0 => self.put("[1]"),
            1 => self.put("node.labels.pairs"),
            2 => {
                self.put("[");
                let elements = 1 + self.choice(5);
                for at in 0..elements {
                    self.put(if at == 0 { "" } else { ", " });
                    self.any(depth);
                }
                self.put("]");
            }
            3 => {
                self.list(depth);
                self.loops("map", depth, Self::any);
            }
            4 => self.grown(depth),
            5 => {
                self.list(depth);
                self.loops("filter", depth, Self::truth);
            }
            6 => self.between(" + ", depth, Self::list),
            _ => self.variable(),
        }
    }

    /// A list that is extended or nested many times.
    fn grown(&mut self, depth: u32) {
        match self.choice(4) {
            0 => self.put("['0123456789abcdef']"),
            1 => self.put("[[1, 2]]"),
            2 => self.put("[b'01234567']"),
            _ => self.list(depth),
        }
        let times = 1 + self.choice(40);
        let more = [
            ".map(a, a + a)",
            ".map(a, [a, a, a, a])",
            ".map(a, a + a + a)",
            ".map(a, {'k': a, 'l': a})",
        ][self.choice(4)];
        self.put(&more.repeat(times));
    }

    fn map(&mut self, depth: u32) {
        let Some(depth) = depth.checked_sub(1) else {
            return self.put("{}");
        };
        self.put("{");
        let entries = self.choice(4);
        for at in 0..entries {
            self.put(if at == 0 { "" } else { ", " });
            self.any(depth);
            self.put(": ");
            self.any(depth);
        }
        self.put("}");
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::leader::nodes::filter::{Filter, STACK};

    /// Without this, the fuzzer would only exercise the parser.
    #[test]
    fn much_of_what_is_written_is_a_filter_and_some_of_it_is_long() {
        let look = std::thread::Builder::new().stack_size(STACK).spawn(look);
        look.expect("a thread").join().expect("it is so");
    }

    fn look() {
        let mut dice = StdRng::seed_from_u64(1);
        let (mut compiled, mut longest) = (0, 0);
        for _ in 0..300 {
            let mut tape = vec![0; 600];
            dice.fill_bytes(&mut tape);
            let text = written(&tape);
            assert_eq!(text, written(&tape));
            if Filter::compile(&text).is_ok() {
                compiled += 1;
                longest = longest.max(text.len());
            }
        }
        println!("{compiled} of 300 compile, the longest has {longest} bytes");
        assert!(compiled > 60 && longest > 250, "{compiled} of 300, {longest} bytes");
        assert_eq!(written(&[]), "true");
    }
}
