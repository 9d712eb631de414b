//! By what way the suite's calls travelled, as the proxies' access logs say: a placement proves nothing about mutual TLS if no
//! call used it.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use serde_json::Value;
use weft_cluster::Cluster;

/// How many calls travelled by each way (`security` in the access log).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ways(BTreeMap<String, u64>);

impl Ways {
    /// What all proxies have logged so far, at the callers' side.
    ///
    /// # Errors
    /// If the logs cannot be read.
    pub fn count(cluster: &Cluster) -> Result<Self> {
        let logs =
            ["logs", "--namespace=weft-system", "--selector=app.kubernetes.io/name=weft-proxy", "--tail=-1"];
        Ok(Self::read(&cluster.kubectl(&logs)?))
    }

    fn read(log: &str) -> Self {
        let mut counts = BTreeMap::new();
        for line in log.lines().filter(|line| line.contains("\"reporter\":\"source\"")) {
            let line: Value = line
                .find('{')
                .and_then(|at| line.get(at..))
                .map_or(Value::Null, |json| serde_json::from_str(json).unwrap_or_default());
            if let Some(way) = line.get("security").and_then(Value::as_str) {
                *counts.entry(way.to_owned()).or_default() += 1;
            }
        }
        Self(counts)
    }

    /// What has come since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let of = |(way, count): (&String, &u64)| {
            (way.clone(), count.saturating_sub(before.0.get(way).copied().unwrap_or(0)))
        };
        Self(self.0.iter().map(of).collect())
    }

    fn of(&self, way: &str) -> u64 {
        self.0.get(way).copied().unwrap_or(0)
    }

    /// Fails if calls travelled otherwise than they should, or not at all: `mtls` between nodes and through the tunnel, `same_node`
    /// directly.
    ///
    /// # Errors
    /// In exactly these cases.
    pub fn judge(&self, mtls: bool, same_node: bool) -> Result<()> {
        if self.of("plaintext") > 0 {
            bail!("{} calls were in plaintext", self.of("plaintext"));
        }
        for (way, wanted) in [("mtls", mtls), ("same_node", same_node)] {
            match (self.of(way), wanted) {
                (0, true) => bail!("no call travelled by {way}"),
                (count, false) if count > 0 => {
                    bail!("{count} calls travelled by {way}, and none should have")
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl std::fmt::Display for Ways {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all: Vec<String> = self.0.iter().map(|(way, count)| format!("{way} {count}")).collect();
        f.write_str(&all.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_at_the_callers_side_and_judged() {
        let log = "text\n{\"reporter\":\"source\",\"security\":\"mtls\"}\nx {\"reporter\":\"source\",\"security\":\"none\"}\n\
                   {\"reporter\":\"destination\",\"security\":\"same_node\"}\n";
        let ways = Ways::read(log);
        assert_eq!(ways.to_string(), "mtls 1, none 1");
        assert!(ways.judge(true, false).is_ok());
        assert!(ways.judge(true, true).is_err());
        assert!(ways.judge(false, false).is_err());
        assert!(ways.since(&ways).judge(true, false).is_err());
        assert!(
            Ways::read("{\"reporter\":\"source\",\"security\":\"plaintext\"}").judge(false, false).is_err()
        );
    }
}
