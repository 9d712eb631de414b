//! ClusterIPs, allocated per family from the Service ranges, and the addresses of load balancers. Stable over restarts of
//! the lab, because an address is looked for from a point that the Service's name decides.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};

use crate::objects::{Key, set, text};
use crate::uplink::Uplink;

/// Which address belongs to which Service.
pub(crate) struct Addresses {
    of: BTreeMap<IpAddr, Key>,
    load_balancers: Uplink,
}

impl Addresses {
    /// None given yet. Load balancers give those of `load_balancers`.
    pub(crate) const fn new(load_balancers: Uplink) -> Self {
        Self { of: BTreeMap::new(), load_balancers }
    }

    /// Fills in what an API server fills in on a Service, and refuses what it refuses.
    pub(crate) fn admit_service(
        &mut self,
        key: &Key,
        object: &mut Value,
        old: Option<&Value>,
        ipv6: bool,
    ) -> Result<(), String> {
        let kind = match text(object, "/spec/type") {
            "" => "ClusterIP".to_owned(),
            kind => kind.to_owned(),
        };
        let mut spec = object.get("spec").cloned().unwrap_or_else(|| json!({}));
        set(&mut spec, "type", json!(kind));
        default_ports(&mut spec)?;
        if kind != "ExternalName" {
            let families = families(&spec, ipv6)?;
            set(&mut spec, "ipFamilies", json!(families));
            if spec.get("ipFamilyPolicy").is_none() {
                set(&mut spec, "ipFamilyPolicy", json!("SingleStack"));
            }
            self.cluster_ips(key, &mut spec, old, &families)?;
            if kind == "LoadBalancer" && spec.get("loadBalancerClass").is_none() {
                let ingress = self.load_balance(key, &spec, old, &families);
                set(object, "status", json!({"loadBalancer": {"ingress": ingress}}));
            }
        }
        for (field, default) in [("sessionAffinity", "None"), ("internalTrafficPolicy", "Cluster")] {
            if spec.get(field).is_none() {
                set(&mut spec, field, json!(default));
            }
        }
        set(object, "spec", spec);
        Ok(())
    }

    fn cluster_ips(
        &mut self,
        key: &Key,
        spec: &mut Value,
        old: Option<&Value>,
        families: &[String],
    ) -> Result<(), String> {
        if text(spec, "/clusterIP") == "None" {
            self.release(key);
            set(spec, "clusterIPs", json!(["None"]));
            return Ok(());
        }
        let asked: Vec<String> = match spec.get("clusterIPs").and_then(Value::as_array) {
            Some(list) => list.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            None => spec.get("clusterIP").and_then(Value::as_str).map(str::to_owned).into_iter().collect(),
        };
        let had: Vec<String> = old
            .and_then(|o| o.pointer("/spec/clusterIPs"))
            .and_then(Value::as_array)
            .map(|l| l.iter().filter_map(Value::as_str).map(str::to_owned).collect())
            .unwrap_or_default();
        let mut chosen = Vec::new();
        for family in families {
            let wants_v6 = family == "IPv6";
            let fits = |ip: &&String| ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6() == wants_v6);
            let ip = match asked.iter().find(fits) {
                Some(ip) => self.check(key, ip)?,
                None => match had.iter().find(fits).and_then(|ip| self.check(key, ip).ok()) {
                    Some(ip) => ip,
                    None => self.search(key, wants_v6)?,
                },
            };
            chosen.push(ip);
        }
        self.release(key);
        for ip in &chosen {
            self.of.insert(*ip, key.clone());
        }
        set(spec, "clusterIP", json!(chosen.first()));
        set(spec, "clusterIPs", json!(chosen));
        Ok(())
    }

    /// What a load balancer gives the Service, in each of its families. One that is asked for and cannot be given is not
    /// given, which is no fault of the Service.
    fn load_balance(
        &mut self,
        key: &Key,
        spec: &Value,
        old: Option<&Value>,
        families: &[String],
    ) -> Vec<Value> {
        let asked = text(spec, "/loadBalancerIP").parse::<IpAddr>().ok();
        let before =
            old.and_then(|old| old.pointer("/status/loadBalancer/ingress")).and_then(Value::as_array);
        let had = before.into_iter().flatten().filter_map(|of| text(of, "/ip").parse::<IpAddr>().ok());
        let had: Vec<IpAddr> = had.collect();
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let from = hasher.finish() % 200;
        let mut given = Vec::new();
        for family in families {
            let ipv6 = family == "IPv6";
            let is_free =
                |ip: &IpAddr| ip.is_ipv6() == ipv6 && self.of.get(ip).is_none_or(|owner| owner == key);
            let found = match asked {
                Some(asked) => Some(asked).filter(|ip| self.load_balancers.has(*ip)).filter(is_free),
                None => had.iter().copied().chain(self.load_balancers.addresses(from, ipv6)).find(is_free),
            };
            given.extend(found);
        }
        self.of.extend(given.iter().map(|ip| (*ip, key.clone())));
        given.iter().map(|ip| json!({"ip": ip, "ipMode": "VIP"})).collect()
    }

    fn check(&self, key: &Key, ip: &str) -> Result<IpAddr, String> {
        let parsed: IpAddr = ip.parse().map_err(|_| format!("spec.clusterIPs: {ip:?} is not an address"))?;
        if !in_service_range(parsed) {
            return Err(format!(
                "spec.clusterIPs: {ip} is not in the Service ranges 10.96.0.0/16 and fd00:10:96::/112"
            ));
        }
        match self.of.get(&parsed) {
            Some(owner) if owner != key => {
                Err(format!("spec.clusterIPs: {ip} is already allocated to {owner}"))
            }
            _ => Ok(parsed),
        }
    }

    fn search(&self, key: &Key, ipv6: bool) -> Result<IpAddr, String> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let start = hasher.finish() % 65_000;
        // Below 256 lie the addresses that users ask for by number.
        (0..65_000u64)
            .map(|step| address(u16::try_from((start + step) % 65_000 + 256).unwrap_or(256), ipv6))
            .find(|ip| !self.of.contains_key(ip))
            .ok_or_else(|| "no free Service address".to_owned())
    }

    /// Takes the addresses of a Service that is not checked.
    pub(crate) fn reserve(&mut self, key: &Key, object: &Value) {
        let ips = object.pointer("/spec/clusterIPs").and_then(Value::as_array).into_iter().flatten();
        self.of.extend(ips.filter_map(|ip| ip.as_str()?.parse().ok()).map(|ip| (ip, key.clone())));
    }

    /// Gives a Service's addresses back.
    pub(crate) fn release(&mut self, key: &Key) {
        self.of.retain(|_, owner| owner != key);
    }
}

fn address(low: u16, ipv6: bool) -> IpAddr {
    if ipv6 {
        return IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, low));
    }
    let [high, low] = low.to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(10, 96, high, low))
}

fn in_service_range(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => matches!(v4.octets(), [10, 96, _, _]),
        IpAddr::V6(v6) => matches!(v6.segments(), [0xfd00, 0x10, 0x96, 0, 0, 0, 0, _]),
    }
}

fn families(spec: &Value, ipv6: bool) -> Result<Vec<String>, String> {
    let asked: Vec<String> = spec
        .get("ipFamilies")
        .and_then(Value::as_array)
        .map(|l| l.iter().filter_map(Value::as_str).map(str::to_owned).collect())
        .unwrap_or_default();
    let mut chosen = if asked.is_empty() { vec!["IPv4".to_owned()] } else { asked };
    if let Some(bad) = chosen.iter().find(|f| *f != "IPv4" && *f != "IPv6") {
        return Err(format!("spec.ipFamilies: Unsupported value: {bad:?}"));
    }
    match text(spec, "/ipFamilyPolicy") {
        "" | "SingleStack" if chosen.len() > 1 => {
            return Err("spec.ipFamilyPolicy: must be RequireDualStack or PreferDualStack when several ipFamilies are given".to_owned());
        }
        "" | "SingleStack" => {}
        "RequireDualStack" if !ipv6 => return Err("spec.ipFamilyPolicy: this machine has no IPv6".to_owned()),
        "PreferDualStack" | "RequireDualStack" => {
            if ipv6 && chosen.len() == 1 {
                let other = if chosen.iter().any(|f| f == "IPv4") { "IPv6" } else { "IPv4" };
                chosen.push(other.to_owned());
            }
        }
        other => return Err(format!("spec.ipFamilyPolicy: Unsupported value: {other:?}")),
    }
    if !ipv6 && chosen.iter().all(|f| f == "IPv6") {
        return Err("spec.ipFamilies: this machine has no IPv6".to_owned());
    }
    Ok(chosen)
}

fn default_ports(spec: &mut Value) -> Result<(), String> {
    let Some(ports) = spec.get_mut("ports").and_then(Value::as_array_mut) else { return Ok(()) };
    let several = ports.len() > 1;
    for (index, port) in ports.iter_mut().enumerate() {
        let Some(number) = port.get("port").and_then(Value::as_u64).filter(|p| (1..=65_535).contains(p))
        else {
            return Err(format!("spec.ports[{index}].port: must be between 1 and 65535"));
        };
        if several && text(port, "/name").is_empty() {
            return Err(format!("spec.ports[{index}].name: Required value"));
        }
        if port.get("protocol").is_none() {
            set(port, "protocol", json!("TCP"));
        }
        if port.get("targetPort").is_none() {
            set(port, "targetPort", json!(number));
        }
    }
    Ok(())
}
