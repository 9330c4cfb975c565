use super::Calibration;

/// A route whose requests have these tokens beside their text, and for each estimated one.
#[derive(Clone, Copy, Debug)]
struct Route {
    offset: f64,
    slope: f64,
    noise: f64,
}

impl Route {
    const fn new(offset: f64, slope: f64) -> Self {
        Self {
            offset,
            slope,
            noise: 0.02,
        }
    }

    fn tokens(&self, rng: &mut fastrand::Rng, estimate: f64) -> f64 {
        // Nearly normal, of this standard deviation.
        let noise = (0..12).map(|_| rng.f64()).sum::<f64>() - 6.0;
        (self.offset + self.slope * estimate) * (1.0 + self.noise * noise)
    }

    fn teach(&self, rng: &mut fastrand::Rng, to: &mut Calibration, requests: u32) {
        for _ in 0..requests {
            let estimate = size(rng);
            let tokens = self.tokens(rng, estimate);
            to.learn(estimate, tokens.round());
        }
    }

    /// Returns the largest relative error at sizes that the route has.
    fn error(&self, of: &Calibration) -> f64 {
        let sizes = [600.0, 1_000.0, 3_000.0, 10_000.0, 30_000.0];
        let errors = sizes.map(|estimate| {
            let truth = self.offset + self.slope * estimate;
            (of.expected(estimate) / truth - 1.0).abs()
        });
        errors.into_iter().fold(0.0, f64::max)
    }
}

/// Returns an estimate from 600 to 30,000 tokens, evenly by its logarithm.
fn size(rng: &mut fastrand::Rng) -> f64 {
    600.0 * 50_f64.powf(rng.f64())
}

const ROUTES: [Route; 7] = [
    Route::new(0.0, 1.0),
    Route::new(0.0, 0.7),
    Route::new(300.0, 1.1),
    Route::new(1_500.0, 1.3),
    Route::new(3_000.0, 0.9),
    Route::new(8_000.0, 1.0),
    Route::new(0.0, 2.0),
];

#[test]
fn affine_route_is_right_within_five_percent_after_twenty_requests() {
    for route in ROUTES {
        let mut within = 0;
        for seed in 0..200 {
            let (mut rng, mut learned) = (fastrand::Rng::with_seed(seed), Calibration::default());
            route.teach(&mut rng, &mut learned, 20);
            within += u32::from(route.error(&learned) <= 0.05);
        }
        assert!(within >= 190, "{route:?}: {within} of 200 seeds");
    }
}

#[test]
fn switch_of_the_route_is_learned_within_thirty_requests() {
    for (before, after) in [
        (Route::new(0.0, 1.0), Route::new(0.0, 1.3)),
        (Route::new(0.0, 1.0), Route::new(0.0, 0.5)),
        (Route::new(0.0, 0.7), Route::new(3_000.0, 1.1)),
        (Route::new(3_000.0, 1.1), Route::new(0.0, 0.7)),
        (Route::new(1_500.0, 1.0), Route::new(1_500.0, 4.0)),
    ] {
        let mut within = 0;
        for seed in 0..200 {
            let (mut rng, mut learned) = (fastrand::Rng::with_seed(seed), Calibration::default());
            before.teach(&mut rng, &mut learned, 300);
            after.teach(&mut rng, &mut learned, 30);
            within += u32::from(after.error(&learned) <= 0.05);
        }
        assert!(within >= 180, "{before:?} {after:?}: {within} of 200 seeds");
    }
}

#[test]
fn odd_usage_changes_an_affine_route_little() {
    let route = Route::new(1_500.0, 1.2);
    for odd in [0.0, 0.01, 30.0, 1e6] {
        for at in [3, 10, 19] {
            let mut rng = fastrand::Rng::with_seed(5);
            let mut learned = Calibration::default();
            for request in 0..40 {
                let estimate = size(&mut rng);
                let tokens = route.tokens(&mut rng, estimate);
                learned.learn(estimate, if request == at { tokens * odd } else { tokens });
            }
            assert!(route.error(&learned) < 0.1, "{odd} at {at}: {learned:?}");
        }
    }
}

#[test]
fn requests_of_one_size_have_no_offset() {
    let mut learned = Calibration::default();
    for _ in 0..50 {
        learned.learn(2_000.0, 3_000.0);
    }
    assert!(learned.offset() < 1.0, "{learned:?}");
    assert!((learned.expected(20_000.0) / 30_000.0 - 1.0).abs() < 0.01);
}

#[test]
fn offset_is_never_negative_and_the_slope_never_vanishes() {
    let mut rng = fastrand::Rng::with_seed(3);
    for _ in 0..300 {
        let mut learned = Calibration::default();
        let scale = 10_f64.powf(rng.f64() * 6.0);
        for _ in 0..rng.usize(1..200) {
            let estimate = (rng.f64() * scale).max(1.0);
            // Usage that has nothing to do with the request.
            let actual = match rng.u8(0..4) {
                0 => 0.0,
                1 => rng.f64() * 1e7,
                _ => 2e5 / estimate,
            };
            learned.learn(estimate, actual);
            assert!(learned.offset() >= 0.0, "{learned:?}");
            assert!(learned.slope() >= 0.0, "{learned:?}");
            assert!(learned.offset().is_finite() && learned.ratio().is_finite());
            // Monotone in the estimate.
            assert!(learned.expected(estimate) <= learned.expected(estimate * 2.0));
        }
    }
}

#[test]
fn small_requests_hardly_count_beside_larger_ones() {
    let mut learned = Calibration::default();
    for _ in 0..20 {
        // Small ones are learned while there are no others.
        learned.learn(100.0, 200.0);
    }
    assert!((learned.expected(100.0) - 200.0).abs() < 1.0);
    for _ in 0..30 {
        learned.learn(10_000.0, 11_000.0);
        learned.learn(10.0, 90.0);
    }
    assert!(
        (learned.expected(10_000.0) / 11_000.0 - 1.0).abs() < 0.02,
        "{learned:?}"
    );
    assert!(
        (learned.expected(20_000.0) / 22_000.0 - 1.0).abs() < 0.02,
        "{learned:?}"
    );
    // A route that has small requests only from now on is learned.
    for _ in 0..100 {
        learned.learn(100.0, 200.0);
    }
    assert!(
        (learned.expected(100.0) - 200.0).abs() < 10.0,
        "{learned:?}"
    );
}

#[test]
fn empty_usage_without_end_leaves_the_estimates_finite() {
    let mut learned = Calibration::default();
    for _ in 0..500 {
        learned.learn(1_000.0, 0.0);
    }
    let expected = learned.expected(1_000.0);
    assert!(expected.is_finite() && expected >= 0.0);
    Route::new(0.0, 1.0).teach(&mut fastrand::Rng::with_seed(1), &mut learned, 40);
    assert!(Route::new(0.0, 1.0).error(&learned) < 0.1, "{learned:?}");
}
