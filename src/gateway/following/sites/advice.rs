//! What a person should do next about sites of which none, or more than one, has the master. Pure.
//!
//! What costs data if it was wrong never comes first: a site that is away may come back, and a Redis that
//! its own site knows of may have more than any other.

use super::answers::Why;

/// What a site was last seen to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    NoMaster,
    Master,
    Away(Why),
}

/// The next step for an entry. Of each site its name, what it is, and whether it is the one that is followed.
pub(super) fn next_step(entry: &str, sites: &[(&str, State, bool)]) -> String {
    let names = |wanted: &dyn Fn(State) -> bool, glue: &str| {
        let names: Vec<_> =
            sites.iter().filter(|(_, state, _)| wanted(*state)).map(|(name, ..)| *name).collect();
        names.join(glue)
    };
    let followed =
        sites.iter().find(|(.., is_followed)| *is_followed).map(|(name, state, _)| (*name, *state));
    let others = sites.iter().filter(|(_, state, is_followed)| *state == State::Master && !is_followed);
    let orders: Vec<_> = others.map(|(name, ..)| order(entry, name)).collect();
    let orders = orders.join(", or ");
    match followed {
        Some((own, State::Away(why))) => {
            let first = back(entry, own, why);
            match (why, orders.is_empty()) {
                (Why::Untold | Why::Partial, true) => first,
                (_, true) => format!("{first}; {}, then go by docs/failover.md", lost(own)),
                (_, false) => {
                    format!("{first}; {}, and if another site has the right data: {orders}", lost(own))
                }
            }
        }
        Some((own, _)) => {
            let others = names(&|state| state == State::Master, " and ");
            format!(
                "compare `replgate status` at {others}, and let writers use one of them alone; if the right one is not that of {own}: {orders}; then make the other one a replica, as in docs/failover.md"
            )
        }
        None => {
            let away = names(&|state| matches!(state, State::Away(why) if why != Why::Untold), " and ");
            let untold = names(&|state| state == State::Away(Why::Untold), " and ");
            let mut steps = Vec::new();
            if !away.is_empty() {
                steps.push(format!("wait for {away}, or repair the path there"));
            }
            if !untold.is_empty() {
                steps.push(tell(&untold));
            }
            let lost = if away.is_empty() { String::new() } else { format!("{}, and ", lost(&away)) };
            if !orders.is_empty() {
                if steps.is_empty() {
                    steps.push("compare what `replgate status` says at each of them".to_owned());
                }
                steps.push(format!("{lost}if it has the right data: {orders}"));
            } else if steps.is_empty() {
                steps.push(
                    "see `replgate status` at each of them: its gateway says there why it offers no master, and what to do"
                        .to_owned(),
                );
            } else if !away.is_empty() {
                steps.push(format!("{lost}go by docs/failover.md"));
            }
            steps.join("; ")
        }
    }
}

/// The next step if a gateway of the site that is followed has another master than another one there.
pub(super) fn of_stranger(entry: &str, own: &str) -> String {
    format!(
        "compare `replgate status` at each gateway of {own}, and have all of them follow the same Redis; if what is followed here is the wrong one: {}",
        order(entry, own)
    )
}

/// How a site is followed; without `--yes` that is only asked about.
fn order(entry: &str, site: &str) -> String {
    format!("replgate follow {entry} {site}")
}

/// How the site that is followed comes back.
fn back(entry: &str, own: &str, why: Why) -> String {
    match why {
        Why::Untold => tell(own),
        Why::NoRedis => {
            format!("wait for the Redis of {own}, and see `replgate status` there: another one may take over")
        }
        Why::Partial => format!(
            "bring back the gateway of {own} that is missing; if it is gone for good, and the other one has the right data: {}",
            order(entry, own)
        ),
        Why::Other => format!("wait for {own}, or repair the path there"),
    }
}

fn tell(site: &str) -> String {
    format!("at {site} upgrade the gateway, or write follow = \"master\" in its [[master]]")
}

fn lost(site: &str) -> String {
    format!("if {site} is lost for good, make sure that nothing writes to its Redis any more")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_cost_data_is_never_the_first_step_and_never_a_promotion() {
        let states = [
            State::NoMaster,
            State::Master,
            State::Away(Why::Other),
            State::Away(Why::NoRedis),
            State::Away(Why::Untold),
            State::Away(Why::Partial),
        ];
        for own in states {
            for other in states {
                for is_followed in [true, false] {
                    let sites = [("dc1", own, is_followed), ("dc2", other, false)];
                    let step = next_step("orders", &sites);
                    let first = step.split([';', ',']).next().unwrap_or_default();
                    let context = format!("{sites:?}: {step}");
                    assert!(!step.contains("romote") && !step.contains("REPLICAOF"), "{context}");
                    assert!(!first.is_empty() && !first.contains("replgate follow"), "{context}");
                    assert_eq!(
                        step.contains("replgate follow orders dc2"),
                        other == State::Master,
                        "{context}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_site_that_is_away_is_waited_for_and_given_up_only_once_nothing_writes_to_it() {
        let away = ("dc1", State::Away(Why::Other), true);
        let lost = "if dc1 is lost for good, make sure that nothing writes to its Redis any more";
        assert_eq!(
            next_step("orders", &[away, ("dc2", State::NoMaster, false)]),
            format!("wait for dc1, or repair the path there; {lost}, then go by docs/failover.md")
        );
        assert_eq!(
            next_step("orders", &[away, ("dc2", State::Master, false)]),
            format!(
                "wait for dc1, or repair the path there; {lost}, and if another site has the right data: replgate follow orders dc2"
            )
        );
        let untold = ("dc1", State::Away(Why::Untold), true);
        assert_eq!(
            next_step("orders", &[untold, ("dc2", State::NoMaster, false)]),
            "at dc1 upgrade the gateway, or write follow = \"master\" in its [[master]]"
        );
        let no_redis = next_step("orders", &[("dc1", State::Away(Why::NoRedis), true)]);
        assert!(
            no_redis.starts_with("wait for the Redis of dc1, and see `replgate status` there"),
            "{no_redis}"
        );
    }
}
