//! What the options and shell commands of a script set.
//!
//! Commands are not run. Those that set what the stack has a field for set it; those that would put
//! a kernel into its usual state do nothing; anything else is an error that names the line.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weft_stack::socket::tcp::CongestionControl;
use weft_stack::stack::{EcnMode, FastOpen, MtuProbing, StackConfig, SynCookies};

use crate::script::ScriptOption;

/// How a script is run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Of the stack. Pacing is off, so that what may be sent is sent at once.
    pub stack: StackConfig,
    /// Packets are IPv4.
    pub v4: bool,
    /// Sockets are `AF_INET6` (with IPv4 packets: of mapped addresses).
    pub v6_sockets: bool,
    /// Our address.
    pub local: IpAddr,
    /// The peer's.
    pub remote: IpAddr,
    /// Where `bind(3, ..., ...)` binds.
    pub bind_port: u16,
    /// Where `connect(3, ..., ...)` connects.
    pub connect_port: u16,
    /// Of the line, bytes.
    pub mtu: usize,
    /// How far times may be off, microseconds.
    pub tolerance_us: u64,
    /// The same, in percent of the time since the previous event; the larger counts.
    pub tolerance_percent: f64,
    /// Microseconds per tick, if values of timestamps are compared.
    pub timestamp_tick_us: Option<u64>,
    /// Segments must be cut as the script says; otherwise neighbours are joined first.
    pub strict_segments: bool,
    /// PSH is not compared: where it stands within a burst is free.
    pub ignore_push: bool,
    /// Packets that no line of the script expected are an error.
    pub complete: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        let mut stack = StackConfig { name: "packetdrill".into(), ..StackConfig::default() };
        stack.tcp.pacing = false;
        stack.tcp.quick_acks = 16;
        stack.seed = [7; 16];
        // Buffers that do not grow: the window scale is 5, whatever the defaults become.
        (stack.tcp.send_buffer, stack.tcp.send_buffer_max) = (1 << 20, 1 << 20);
        (stack.tcp.recv_buffer, stack.tcp.recv_buffer_max) = (1 << 20, 1 << 20);
        Settings {
            stack,
            v4: true,
            v6_sockets: false,
            local: Ipv4Addr::new(192, 168, 0, 1).into(),
            remote: Ipv4Addr::new(192, 0, 2, 1).into(),
            bind_port: 8080,
            connect_port: 8080,
            mtu: 1500,
            tolerance_us: 4000,
            tolerance_percent: 0.0,
            timestamp_tick_us: None,
            strict_segments: false,
            ignore_push: false,
            complete: true,
        }
    }
}

impl Settings {
    /// Takes one `--name=value` of a script or a command line.
    pub fn apply(&mut self, option: &ScriptOption) -> Result<(), String> {
        let value = option.value.as_str();
        let name = option.name.as_str();
        match name {
            "ip_version" => self.ip_version(value)?,
            "bind_port" => self.bind_port = number(name, value)?,
            "connect_port" => self.connect_port = number(name, value)?,
            "mtu" => self.mtu = number(name, value)?,
            "tolerance_usecs" => self.tolerance_us = number(name, value)?,
            "tolerance_percent" => self.tolerance_percent = number(name, value)?,
            "tcp_ts_tick_usecs" => {
                self.timestamp_tick_us = Some(number(name, value)?).filter(|t| *t > 0);
            }
            "strict_segments" => self.strict_segments = true,
            "ignore_rest" => self.complete = false,
            "ignore_push" => self.ignore_push = true,
            "local_ip" => self.local = address(name, value)?,
            "remote_ip" => self.remote = address(name, value)?,
            "init_scripts" | "gateway_ip" | "netmask_ip" | "speed" | "mss" | "define" | "debug"
            | "verbose" | "send_omit_free" | "is_anyip" | "tcp_ts_ecr_scaled" | "code_command"
            | "code_format" | "code_sockopt" => {}
            _ => {
                return Err(format!(
                    "option `--{name}` is not known here; see the list in docs/packetdrill.md"
                ));
            }
        }
        Ok(())
    }

    fn ip_version(&mut self, value: &str) -> Result<(), String> {
        let v6: (IpAddr, IpAddr) = (
            Ipv6Addr::new(0xfd3d, 0xfa7b, 0xd17d, 0, 0, 0, 0, 1).into(),
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
        );
        match value {
            "ipv4" => {}
            "ipv4-mapped-ipv6" => self.v6_sockets = true,
            "ipv6" => {
                (self.v4, self.v6_sockets) = (false, true);
                (self.local, self.remote) = v6;
            }
            _ => {
                return Err(format!(
                    "IP version `{value}` is none of ipv4, ipv6, ipv4-mapped-ipv6"
                ));
            }
        }
        Ok(())
    }

    /// Takes what a shell command of a script sets before the first event.
    pub fn command(&mut self, command: &str) -> Result<(), String> {
        for words in commands(command) {
            match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
                ["sysctl", ref rest @ ..] => self.sysctls(rest)?,
                [set, ref rest @ ..] if set.ends_with("set_sysctls.py") => self.sysctls(rest)?,
                ["ip", "link", "set", .., "mtu", mtu] => self.mtu = number("mtu", mtu)?,
                ref other if is_idle(other) => {}
                _ => return Err(unknown(&words)),
            }
        }
        Ok(())
    }

    fn sysctls(&mut self, words: &[&str]) -> Result<(), String> {
        for word in words.iter().filter(|w| !w.starts_with('-')) {
            let Some((name, value)) = word.split_once('=') else {
                return Err(format!("found `{word}`, expected `name=value` after `sysctl`"));
            };
            let name = name.trim_start_matches("/proc/sys/").replace('/', ".");
            self.sysctl(&name, value)?;
        }
        Ok(())
    }

    fn sysctl(&mut self, name: &str, value: &str) -> Result<(), String> {
        let tcp = &mut self.stack.tcp;
        let short = name.strip_prefix("net.ipv4.").unwrap_or(name);
        match short {
            "tcp_congestion_control" => {
                tcp.congestion = CongestionControl::ALL
                    .into_iter()
                    .find(|c| c.name() == value)
                    .ok_or(format!("congestion control `{value}` is not known"))?;
            }
            "tcp_ecn" => {
                tcp.ecn = match value {
                    "0" => EcnMode::Off,
                    "1" => EcnMode::Classic,
                    "2" | "4" | "5" => EcnMode::Accept,
                    "3" => EcnMode::Accurate,
                    _ => return Err(format!("tcp_ecn has no value {value}")),
                }
            }
            "tcp_fastopen" => {
                let bits: u32 = number(short, value)?;
                tcp.fast_open = match bits & 3 {
                    0 => FastOpen::Off,
                    1 => FastOpen::Client,
                    2 => FastOpen::Server,
                    _ => FastOpen::Both,
                }
            }
            "tcp_syncookies" => {
                tcp.syn_cookies = match value {
                    "0" => SynCookies::Off,
                    "1" => SynCookies::Pressure,
                    _ => SynCookies::Always,
                }
            }
            "tcp_mtu_probing" => {
                tcp.mtu_probing = match value {
                    "0" => MtuProbing::Off,
                    "1" => MtuProbing::BlackHole,
                    _ => MtuProbing::Always,
                }
            }
            _ => return self.number(name, short, value),
        }
        Ok(())
    }

    /// Those that are numbers.
    fn number(&mut self, name: &str, short: &str, value: &str) -> Result<(), String> {
        let tcp = &mut self.stack.tcp;
        match short {
            "tcp_rmem" => (tcp.recv_buffer, tcp.recv_buffer_max) = buffers(short, value)?,
            "tcp_wmem" => (tcp.send_buffer, tcp.send_buffer_max) = buffers(short, value)?,
            "tcp_rto_min_us" => tcp.rto_ms_min = number::<u32>(short, value)? / 1000,
            "weft.rto_ms_min" => tcp.rto_ms_min = number(short, value)?,
            "weft.time_wait_s" => tcp.time_wait_s = number(short, value)?,
            "weft.delayed_ack_ms" => tcp.delayed_ack_ms = number(short, value)?,
            "weft.recv_buffer_max" => tcp.recv_buffer_max = number(short, value)?,
            "weft.send_buffer_max" => tcp.send_buffer_max = number(short, value)?,
            "weft.pacing" => tcp.pacing = value != "0",
            "weft.half_open" => self.stack.limits.tcp_half_open = number(short, value)?,
            "weft.connections" => self.stack.limits.tcp_connections = number(short, value)?,
            "weft.icmp_errors" => self.stack.limits.icmp_errors_per_second = number(short, value)?,
            "weft.quick_acks" => tcp.quick_acks = number(short, value)?,
            "tcp_timestamps" => tcp.offers.timestamps = value != "0",
            "tcp_sack" => tcp.offers.sack = value != "0",
            "tcp_window_scaling" => tcp.offers.window_scaling = value != "0",
            // Always so, or of no concern to one connection in virtual time.
            "tcp_dsack" if value != "0" => {}
            "tcp_syn_retries"
            | "tcp_synack_retries"
            | "tcp_frto"
            | "tcp_fack"
            | "tcp_recovery"
            | "tcp_early_retrans"
            | "tcp_reordering"
            | "tcp_tso_win_divisor"
            | "tcp_ecn_option"
            | "tcp_slow_start_after_idle"
            | "tcp_pacing_ss_ratio"
            | "tcp_pacing_ca_ratio"
            | "tcp_notsent_lowat"
            | "tcp_fastopen_key"
            | "tcp_min_tso_segs"
            | "tcp_autocorking"
            | "tcp_invalid_ratelimit"
            | "tcp_no_metrics_save"
            | "ip_local_port_range" => {}
            _ => return Err(format!("sysctl {name}={value} has no counterpart in the stack")),
        }
        Ok(())
    }
}

/// A command in the middle of a script: the new MTU of the line, if it sets one.
pub(crate) fn later(command: &str) -> Result<Option<usize>, String> {
    let mut mtu = None;
    for words in commands(command) {
        match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["ip", "link", "set", .., "mtu", value] => mtu = Some(number("mtu", value)?),
            ref other if is_idle(other) => {}
            _ => return Err(unknown(&words)),
        }
    }
    Ok(mtu)
}

fn unknown(words: &[String]) -> String {
    format!(
        "command `{}` sets nothing the stack has; known are sysctl, set_sysctls.py and ip link set \
         dev tun0 mtu N",
        words.join(" ")
    )
}

/// Commands that bring a kernel to the state that the stack has from the start.
fn is_idle(words: &[&str]) -> bool {
    match words {
        [] | ["ethtool" | "sync" | "true" | "tc" | "nstat", ..] => true,
        [first, ..] => first.ends_with("defaults.sh") || first.contains("sysctl_restore"),
    }
}

/// The simple commands of a line of shell, in words without quotes.
fn commands(text: &str) -> Vec<Vec<String>> {
    let joined = text.replace("\\\n", " ");
    let mut out = Vec::new();
    for line in joined.lines() {
        let line = line.split('#').next().unwrap_or("");
        for simple in line.replace("&&", ";").split(';') {
            let simple = simple.split(" > ").next().unwrap_or("");
            let words = words(simple);
            if !words.is_empty() {
                out.push(words);
            }
        }
    }
    out
}

fn words(text: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let (mut quoted, mut inside) = (false, false);
    for c in text.chars() {
        match c {
            '"' | '\'' => quoted = !quoted,
            c if c.is_whitespace() && !quoted => {
                inside = false;
                continue;
            }
            c => {
                if !inside {
                    out.push(String::new());
                }
                if let Some(word) = out.last_mut() {
                    word.push(c);
                }
            }
        }
        inside |= !out.is_empty();
    }
    out
}

fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, String> {
    let hex = value.strip_prefix("0x").and_then(|h| u64::from_str_radix(h, 16).ok());
    let text = hex.map_or_else(|| value.to_owned(), |n| n.to_string());
    text.parse().map_err(|_| format!("`{value}` is no value for {name}, expected a number"))
}

fn address(name: &str, value: &str) -> Result<IpAddr, String> {
    let bare = value.split('/').next().unwrap_or("");
    bare.parse().map_err(|_| format!("`{value}` is no value for {name}, expected an IP address"))
}

/// `min default max`.
fn buffers(name: &str, value: &str) -> Result<(usize, usize), String> {
    match value.split_whitespace().collect::<Vec<_>>()[..] {
        [_, default, max] => Ok((number(name, default)?, number(name, max)?)),
        _ => Err(format!("`{value}` is no value for {name}, expected three numbers")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysctls_set_what_the_stack_has() {
        let mut s = Settings::default();
        s.command(
            "../common/defaults.sh\n../common/set_sysctls.py /proc/sys/net/ipv4/tcp_ecn=0 \\\n \
             /proc/sys/net/ipv4/tcp_syncookies=2\nsysctl -q net.ipv4.tcp_wmem=\"4096 50000 60000\" # x",
        )
        .unwrap();
        assert_eq!(s.stack.tcp.ecn, EcnMode::Off);
        assert_eq!(s.stack.tcp.syn_cookies, SynCookies::Always);
        assert_eq!((s.stack.tcp.send_buffer, s.stack.tcp.send_buffer_max), (50_000, 60_000));
    }

    #[test]
    fn what_the_stack_has_not_is_refused_by_name() {
        let mut s = Settings::default();
        let text = s.command("sysctl -q net.ipv4.tcp_dsack=0").unwrap_err();
        assert!(text.contains("tcp_dsack=0"), "{text}");
        let text = s.command("rm -rf x").unwrap_err();
        assert!(text.contains("`rm -rf x`"), "{text}");
        assert_eq!(later("ip link set dev tun0 mtu 1400"), Ok(Some(1400)));
    }
}
