//! Processes of this program in their different roles, and what they use.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    process::{Child, Command, ExitCode, Stdio},
    time::Duration,
};

use tokio::net::{TcpListener, TcpSocket};

/// The unit of processor times in `/proc`.
const TICK: Duration = Duration::from_millis(10);

/// Starts this program again as the load, with as many file descriptors as the hard limit allows.
pub(crate) fn run_with_descriptors(arguments: &[String]) -> ExitCode {
    let status = command().args(["--role", "load"]).args(arguments).status();
    match status {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn command() -> Command {
    let mut command = Command::new("sh");
    let raise = "ulimit -n \"$(ulimit -H -n)\"; exec \"$0\" \"$@\"";
    let program = std::env::current_exe().expect("the path of this program");
    command.args(["-c", raise]).arg(program);
    command
}

/// Opens a free port, with a queue for many connections at once.
pub(crate) async fn listen() -> TcpListener {
    let socket = TcpSocket::new_v4().expect("a socket");
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(any).expect("a free port");
    socket.listen(4096).expect("a listener")
}

/// Prints the address for the parent, and ends this process when the parent ends.
pub(crate) fn announce(addr: SocketAddr) {
    println!("{addr}");
    std::thread::spawn(|| {
        // Ends when the parent closes its side.
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
}

/// A process with a server. It ends when this value is dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) addr: SocketAddr,
}

impl Server {
    /// Starts a role.
    pub(crate) fn start(role: &str, upstream: Option<SocketAddr>) -> Self {
        let mut command = command();
        command.args(["--role", role]);
        if let Some(upstream) = upstream {
            command.args(["--upstream", &upstream.to_string()]);
        }
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.expect("the program starts");
        let mut line = String::new();
        let output = child.stdout.take().expect("it is piped");
        BufReader::new(output)
            .read_line(&mut line)
            .expect("a line of output");
        let addr = line.trim().parse().expect("the address of a server");
        Self { child, addr }
    }

    /// Returns the resident memory in bytes, now and at its peak.
    pub(crate) fn memory(&self) -> (u64, u64) {
        let path = format!("/proc/{}/status", self.child.id());
        let status = fs::read_to_string(path).expect("the process runs");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().next());
            number.and_then(|number| number.parse().ok()).unwrap_or(0) * 1024
        };
        (field("VmRSS:"), field("VmHWM:"))
    }

    /// Returns the processor time so far.
    pub(crate) fn cpu(&self) -> Duration {
        let path = format!("/proc/{}/stat", self.child.id());
        let stat = fs::read_to_string(path).expect("the process runs");
        // The name of the program stands in parentheses, and may contain blanks.
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let times = fields.split_whitespace().skip(11).take(2);
        let ticks: u32 = times.filter_map(|ticks| ticks.parse::<u32>().ok()).sum();
        TICK * ticks
    }

    /// Returns the greatest number of its file descriptors.
    pub(crate) fn descriptors(&self) -> usize {
        let path = format!("/proc/{}/limits", self.child.id());
        let limits = fs::read_to_string(path).expect("the process runs");
        let line = limits
            .lines()
            .find_map(|line| line.strip_prefix("Max open files"));
        let number = line.and_then(|line| line.split_whitespace().next());
        number.and_then(|number| number.parse().ok()).unwrap_or(0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
