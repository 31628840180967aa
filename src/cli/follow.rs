//! `replgate follow`: a person says who has the master.

use clap::Args;

use super::ask::Running;
use super::text::one_line;
use super::{ConfigPath, Failure, Outcome, block_on};
use crate::admin::follow_words;
use crate::admin::orders::{Answer, Order};
use crate::clock;
use crate::follow::FollowStatus;
use crate::outln::outln;

/// Tells the running gateway to follow another Redis of a master entry, or another site of a replica entry.
///
/// A gateway follows another one by itself only where Sentinel says so, or where the data proves that
/// nothing is lost. Everything else is left to a person: this shows what the switch would cost, and with
/// --yes does it. Replicas then follow whatever data that Redis has; a full sync replaces theirs.
#[derive(Debug, Args)]
pub(super) struct Follow {
    #[command(flatten)]
    config: ConfigPath,
    /// The name of the master or replica entry
    #[arg(value_name = "NAME")]
    name: String,
    /// Who has the master: HOST:PORT of a Redis of the master entry, or a site of the replica entry
    #[arg(value_name = "PARTY")]
    party: String,
    /// Do it; without this, only what it would cost is shown
    #[arg(long)]
    yes: bool,
    /// Print JSON; docs/status.md explains each field
    #[arg(long)]
    json: bool,
}

impl Follow {
    pub(super) fn execute(self) -> Outcome {
        let running = Running::with(&self.config)?;
        let order = Order::Follow { name: self.name.clone(), party: self.party.clone(), carry_out: self.yes };
        let answer = block_on(running.order(&order))??;
        if self.json {
            outln!("{}", serde_json::to_string(&answer)?);
        }
        match answer {
            Answer::Told { party, sentences, following } => {
                if !self.json {
                    let lines = told(&sentences, &following, clock::now());
                    lines.iter().for_each(|line| outln!("{line}"));
                    let is_followed = following.present.is_some_and(|present| present.party == party);
                    if !self.yes && !is_followed {
                        outln!("to do it: {}", self.command(&party));
                    }
                }
                Ok(())
            }
            Answer::Refused { why } => Err(Failure::Failed(anyhow::anyhow!(one_line(&why)))),
            Answer::Unknown { why } => Err(Failure::Usage(one_line(&why))),
        }
    }

    /// The command that does it.
    fn command(&self, party: &str) -> String {
        let config = match &self.config.config {
            Some(path) => format!(" -c {}", path.display()),
            None => String::new(),
        };
        format!("replgate follow {} {party} --yes{config}", self.name)
    }
}

/// What it costs or has cost, who is followed now, and what the Sentinels say.
fn told(sentences: &[String], following: &FollowStatus, now: i64) -> Vec<String> {
    let mut lines: Vec<String> = sentences.iter().map(|sentence| one_line(sentence)).collect();
    lines.push(format!("{} ({}) {}", following.name, following.role, follow_words::does(following, now)));
    let said = |sentinel: &crate::follow::SentinelStatus| {
        format!("Sentinel {} {}", sentinel.sentinel, sentinel.words)
    };
    lines.extend(following.sentinels.iter().map(said).map(|line| one_line(&line)));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::follow::{PresentStatus, SentinelStatus};

    #[test]
    fn what_a_switch_costs_comes_first_then_who_is_followed_and_what_each_sentinel_says() {
        let following = FollowStatus {
            name: "orders".to_owned(),
            role: "master".to_owned(),
            present: Some(PresentStatus {
                party: "10.0.0.5:6379".to_owned(),
                since: 100,
                by: "sentinel".to_owned(),
            }),
            sentinels: vec![SentinelStatus {
                sentinel: "10.0.0.7:26379".to_owned(),
                names: Some("10.0.0.5:6379".to_owned()),
                words: "names 10.0.0.5:6379".to_owned(),
            }],
            ..FollowStatus::default()
        };
        let costs = ["10.0.0.6:6379 has other data:\na full sync".to_owned()];
        assert_eq!(
            told(&costs, &following, 280),
            [
                "10.0.0.6:6379 has other data: a full sync",
                "orders (master) follows 10.0.0.5:6379 for 3 minutes, by Sentinel",
                "Sentinel 10.0.0.7:26379 names 10.0.0.5:6379",
            ]
        );
        let nobody = FollowStatus { present: None, ..following };
        assert_eq!(told(&[], &nobody, 280)[0], "orders (master) follows nobody");
    }
}
