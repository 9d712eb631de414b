//! Plays the load balancer between the machine and the lab: one nft table in the lab's own network namespace that sends
//! what the machine says to a Service's load-balancer address straight to a ready pod, which sees the machine as the
//! caller. It is the only way in, and there is no way out: nothing in the lab can call the machine.

use crate::apiserver::Store;
use crate::config::LabConfig;
use crate::kubeproxy::{self, Rules};
use crate::uplink::INTERFACE;

/// The whole table as text for `nft -f -`; empty without a link to the machine.
pub(crate) fn ruleset(config: &LabConfig, store: &Store) -> String {
    if !config.uplink.exists() {
        return String::new();
    }
    let Rules { chains, served, .. } = Rules::of(&kubeproxy::load_balancers(store));
    format!(
        "table inet load-balancer\ndelete table inet load-balancer\ntable inet load-balancer {{\n{chains}  \
         chain services {{\n{served}  }}\n  \
         chain prerouting {{\n    type nat hook prerouting priority dstnat; policy accept;\n    \
         iifname {INTERFACE} goto services\n  }}\n  \
         chain refuse {{\n    meta l4proto tcp reject with tcp reset\n    reject\n  }}\n  \
         chain forward {{\n    type filter hook forward priority filter; policy accept;\n    \
         iifname {INTERFACE} ct status dnat accept\n    iifname {INTERFACE} goto refuse\n    \
         oifname {INTERFACE} ct direction reply accept\n    oifname {INTERFACE} goto refuse\n  }}\n}}\n"
    )
}
