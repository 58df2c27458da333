use super::*;

#[test]
fn a_rule_may_insist_on_tokens_that_are_bound_to_a_key() {
    let policy = Policy::parse(&POLICY.replace("methods = ", "require_dpop = true\nmethods = ")).expect("a policy");
    let (mut config, call) = (config(), call());
    let refusal = decide(&policy, &config, &call).expect_err("bearer tokens");
    assert_eq!(refusal.code, "policy_dpop");
    assert!(refusal.explanation.contains("dpop_bound_tokens: true"), "{}", refusal.explanation);
    config.profile.dpop_bound_tokens = true;
    decide(&policy, &config, &call).expect("bound tokens");
    decide(&self::policy(), &config, &call).expect("a rule that does not insist");
    // What is suggested for bound tokens insists on them.
    let suggested = format!("version = 1\n{}", suggest(&ask(&config, &call)));
    let suggested = Policy::parse(&suggested).expect("a policy");
    decide(&suggested, &config, &call).expect("what it was made from");
    config.profile.dpop_bound_tokens = false;
    assert_eq!(decide(&suggested, &config, &call).expect_err("bearer tokens").code, "policy_dpop");
}
