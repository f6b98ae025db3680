//! The examples run, and what they claim holds.

#[path = "../examples/custom_classifier.rs"]
mod custom_classifier;
#[path = "../examples/custom_policy.rs"]
mod custom_policy;

#[test]
fn a_rule_of_ones_own_runs_on_the_engine() {
    custom_policy::main().expect("it runs");
}

#[test]
fn a_classifier_of_ones_own_serves_brh() {
    custom_classifier::main().expect("it runs");
}
