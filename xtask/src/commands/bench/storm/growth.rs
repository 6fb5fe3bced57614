//! How what a storm costs grows with its size.

/// The exponent of the power law that fits best, by least squares of the logarithms; `None` with fewer than two sizes.
pub(super) fn exponent(points: &[(f64, f64)]) -> Option<f64> {
    let logs: Vec<_> = points
        .iter()
        .filter(|(size, cost)| *size > 0.0 && *cost > 0.0)
        .map(|(size, cost)| (size.ln(), cost.ln()))
        .collect();
    let count = logs.len() as f64;
    let (x, y) = logs
        .iter()
        .fold((0.0, 0.0), |(x, y), (a, b)| (x + a / count, y + b / count));
    let (above, below) = logs.iter().fold((0.0, 0.0), |(above, below), (a, b)| {
        ((a - x).mul_add(b - y, above), (a - x).mul_add(a - x, below))
    });
    (below > f64::EPSILON).then(|| above / below)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_are_found_and_one_size_tells_nothing() {
        for power in [0.0, 0.5, 1.0, 2.0] {
            let points = [1.0, 3.0, 10.0].map(|size: f64| (size, 7.0 * size.powf(power)));
            let found = exponent(&points).expect("three sizes");
            assert!((found - power).abs() < 1e-9, "{found} for {power}");
        }
        assert_eq!(exponent(&[(5.0, 1.0), (5.0, 2.0)]), None);
        assert_eq!(exponent(&[]), None);
    }
}
