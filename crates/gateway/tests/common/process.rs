//! A gateway in a process of its own, whose memory and tasks can be measured.
//!
//! The process is this test program again, which runs the test `gateway_process` only. Each test
//! file that uses it has that test, which calls [`serve`].

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    process::{Child, ChildStdout, Command, Stdio},
};

use axum::{Router, routing::get};
use tokio::runtime;
use tower_claude_gateway::{Config, Gateway};

/// The variable with the configuration in TOML.
const CONFIG: &str = "GATEWAY_PROCESS_CONFIG";

/// The text before the addresses in the output.
const LISTENING: &str = "listening ";

/// Serves until the parent ends. Returns at once if this process was not started by
/// [`GatewayProcess`].
pub(crate) fn serve() {
    let Ok(toml) = std::env::var(CONFIG) else {
        return;
    };
    let config = Config::from_toml(&toml).unwrap_or_else(|errors| panic!("{errors}"));
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    std::thread::spawn(|| {
        // Ends when the parent closes its side.
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    runtime.block_on(async {
        let alive = || async {
            let tasks = runtime::Handle::current().metrics().num_alive_tasks();
            tasks.to_string()
        };
        let gateway = Gateway::bind(config).await.unwrap();
        println!("{LISTENING}{} {}", gateway.addr(), gateway.admin_addr());
        let gateway = gateway.with_admin_routes(Router::new().route("/alive", get(alive)));
        gateway.run(std::future::pending()).await;
    });
}

/// A running process. It ends when this value is dropped.
pub(crate) struct GatewayProcess {
    child: Child,
    /// Stays open, because the test program writes a line when it runs for a minute.
    _output: BufReader<ChildStdout>,
    pub(crate) addr: SocketAddr,
    pub(crate) admin: SocketAddr,
}

impl Drop for GatewayProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl GatewayProcess {
    /// Starts a gateway in front of a URL, with other fields before and after those of the
    /// upstream.
    pub(crate) fn before(url: &str, before: &str, after: &str) -> Self {
        Self::with_env(url, before, after, &[])
    }

    /// The same, with these variables in its environment.
    pub(crate) fn with_env(url: &str, before: &str, after: &str, env: &[(&str, &str)]) -> Self {
        let toml = format!(
            "listen = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n{before}\n\
             [[upstreams]]\nname = \"main\"\nurl = \"{url}\"\n{after}"
        );
        let mut command = Command::new("sh");
        let raise = "ulimit -n \"$(ulimit -H -n)\"; exec \"$0\" \"$@\"";
        command
            .args(["-c", raise])
            .arg(std::env::current_exe().unwrap())
            .args(["gateway_process", "--exact", "--ignored", "--nocapture"])
            .env(CONFIG, toml)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"] {
            command.env_remove(name).env_remove(name.to_lowercase());
        }
        command.envs(env.iter().copied());
        let mut child = command.spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let addresses = output.by_ref().lines().find_map(|line| {
            let line = line.unwrap();
            let (_, addresses) = line.split_once(LISTENING)?;
            let (addr, admin) = addresses.split_once(' ')?;
            Some((addr.parse().unwrap(), admin.parse().unwrap()))
        });
        let (addr, admin) = addresses.expect("the addresses are printed");
        Self {
            child,
            _output: output,
            addr,
            admin,
        }
    }

    pub(crate) fn request(&self, method: &str, path: &str) -> http::request::Builder {
        http::Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.addr))
            .header("x-api-key", "key-of-caller")
            .header("anthropic-version", "2023-06-01")
            .header("content-type", "application/json")
    }

    /// Returns the resident memory in KiB.
    pub(crate) fn memory(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// Returns the highest resident memory so far in KiB.
    pub(crate) fn peak_memory(&self) -> u64 {
        self.status("VmHWM:")
    }

    fn status(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let value = status.lines().find_map(|line| line.strip_prefix(name));
        let number = value.and_then(|value| value.split_whitespace().next());
        number.unwrap().parse().unwrap()
    }

    /// Returns the number of open file descriptors.
    pub(crate) fn descriptors(&self) -> usize {
        let open = fs::read_dir(format!("/proc/{}/fd", self.child.id()));
        open.unwrap().count()
    }

    /// Returns the number of tasks in the runtime.
    pub(crate) async fn tasks(&self) -> usize {
        let request = http::Request::get(format!("http://{}/alive", self.admin));
        super::send(request, "").await.text().parse().unwrap()
    }

    /// Returns the number of requests that hold a permit of a limiter.
    pub(crate) async fn in_flight(&self) -> f64 {
        let request = http::Request::get(format!("http://{}/metrics", self.admin));
        let metrics = super::send(request, "").await;
        let lines = metrics.text().lines();
        let lines = lines.filter(|line| line.starts_with("tower_claude_in_flight{"));
        let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        values.sum()
    }
}
