//! Which runner a workflow may run on.

use std::collections::BTreeMap;

/// How well a runner fits, the more the better; or why it does not.
///
/// Every label of the workflow that has a value must be the runner's: exactly, or by the runner's
/// `*`. A runner's `!key` takes only workflows that carry that very label.
pub fn fits(workflow: &BTreeMap<String, String>, runner: &BTreeMap<String, String>) -> Result<u32, String> {
    const EXACT: u32 = 10;
    const ANY: u32 = 1;
    for (key, value) in runner {
        let Some(key) = key.strip_prefix('!') else { continue };
        if workflow.get(key) != Some(value) {
            return Err(format!("the runner takes only workflows with the label `{key}: {value}`"));
        }
    }
    let mut score = 0;
    for (key, value) in workflow.iter().filter(|(_, value)| !value.is_empty()) {
        match runner.get(key).or_else(|| runner.get(&format!("!{key}"))) {
            Some(has) if has == value => score += EXACT,
            Some(has) if has == "*" => score += ANY,
            Some(has) => {
                return Err(format!(
                    "it needs a runner with `{key}: {value}`, and this one has `{key}: {has}`"
                ));
            }
            None => {
                return Err(format!("it needs a runner with the label `{key}: {value}`, and there is none"));
            }
        }
    }
    Ok(score)
}
