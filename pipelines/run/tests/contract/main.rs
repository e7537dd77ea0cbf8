//! What every executor owes to whoever hands it steps: one set of cases, told to each of them.

mod cases;
mod shell;
#[path = "../support/steps.rs"]
mod steps;
#[path = "../support/mod.rs"]
mod support;

macro_rules! contract {
    ($($case:ident)*) => {
        mod docker {
            $(#[tokio::test]
            async fn $case() {
                let steps = crate::steps::Steps::new();
                crate::cases::$case(&steps).await;
                steps.end().await;
            })*
        }

        mod scripted {
            $(#[tokio::test]
            async fn $case() {
                let steps = crate::steps::Steps::played(crate::shell::Shell);
                crate::cases::$case(&steps).await;
                steps.end().await;
            })*
        }
    };
}

contract! {
    a_step_says_what_it_does_and_succeeds
    a_step_that_fails_says_its_exit_code_and_goes_no_further
    what_a_step_promised_it_hands_on
    a_promise_that_is_not_kept_is_a_failure
    a_step_ends_at_its_timeout
    a_step_ends_when_it_is_cancelled_and_says_so
    a_step_that_is_cancelled_before_it_starts_does_nothing
    a_service_says_when_it_is_ready_and_goes_on_until_it_is_stopped
    output_and_errors_keep_their_order
    a_variable_has_its_value_and_a_secret_is_masked_wherever_it_is_cut
    a_long_log_arrives_whole
    a_workflow_may_end_more_than_once_and_before_it_began
}
