//! Clocks whose rates differ, and what the election counts by them.

/// What a clock advances by in one tick of real time: any of two numbers, anew in each tick.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clocks {
    pub(crate) slow: u8,
    pub(crate) fast: u8,
    /// A limit is this many times its margin.
    margins: u8,
}

impl Clocks {
    /// Rates of 9 and 11 around 10, for which a margin of a tenth is just enough.
    pub(crate) const TEN_PERCENT: Self = Self {
        slow: 9,
        fast: 11,
        margins: 10,
    };

    /// m, of a limit L.
    pub(crate) const fn margin(self, limit: u8) -> u8 {
        limit / self.margins
    }

    /// L - m: for how long after its sending a read that counts keeps a term valid.
    pub(crate) const fn validity(self, limit: u8) -> u8 {
        limit - self.margin(limit)
    }

    /// W = L + m: for how long a challenge must stand.
    pub(crate) const fn wait(self, limit: u8) -> u8 {
        limit + self.margin(limit)
    }

    pub(crate) const fn advance(self, fast: bool) -> u8 {
        if fast { self.fast } else { self.slow }
    }
}
