//! Every example is started as its reader would start it, and asked.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

#[test]
fn a_middleware_of_ones_own_stamps_every_answer() {
    let example = Example::start(env!("CARGO_BIN_EXE_custom_middleware"), "custom_middleware.toml", |_| ());
    let answer = example.get("/");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\r\nx-greeting: good day\r\n"), "{answer}");
    assert!(answer.ends_with("hello\n"), "{answer}");
}

#[test]
fn a_typing_mistake_in_a_third_partys_table_is_found_at_its_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("gateway.toml");
    let text = fs::read_to_string(root().join("custom_middleware.toml")).expect("the example's file");
    fs::write(&file, text.replace("text =", "texd =")).expect("the file can be written");
    let check =
        Command::new(env!("CARGO_BIN_EXE_custom_middleware")).arg("check").arg(&file).output().expect("it runs");
    let said = String::from_utf8_lossy(&check.stderr);
    assert_eq!(check.status.code(), Some(64), "{said}");
    assert!(said.contains("unknown key `texd`; did you mean `text`?") && said.contains("gateway.toml:10:"), "{said}");
}

#[test]
fn a_registry_of_ones_own_brings_the_instances_and_their_changes() {
    let (first, second) = (upstream("one"), upstream("two"));
    let example = Example::start(env!("CARGO_BIN_EXE_custom_registry"), "custom_registry.toml", |folder| {
        fs::create_dir(folder.join("services")).expect("a folder");
        fs::write(folder.join("services/orders"), first.to_string()).expect("the file can be written");
    });
    example.until("/orders/7", "one");
    let folder = example.folder.as_ref().expect("it was started from a file").path();
    fs::write(folder.join("services/orders"), second.to_string()).expect("the file can be written");
    example.until("/orders/7", "two");
}

#[test]
fn inside_an_axum_application_the_gateway_answers_what_the_application_does_not() {
    let address = free_address();
    let program = Command::new(env!("CARGO_BIN_EXE_embedded_in_axum")).arg(address.to_string()).spawn();
    let example = Example { process: program.expect("it starts"), address, folder: None };
    wait_until(|| TcpStream::connect(address).ok(), "the example listens");

    assert!(example.get("/version").ends_with(env!("CARGO_PKG_VERSION")));
    assert!(example.get("/healthz").ends_with("ok\n"));
    let refused = example.get("/admin");
    assert!(refused.starts_with("HTTP/1.1 403 ") && refused.contains(r#""cause":"ip_not_allowed""#), "{refused}");
}

/// A running example, on a copy of its file with free ports in it.
struct Example {
    process: Child,
    address: SocketAddr,
    /// Where its files are, if it has any.
    folder: Option<TempDir>,
}

impl Example {
    fn start(program: &str, file: &str, prepare: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        prepare(folder.path());
        let (address, admin) = (free_address(), free_address());
        let text = fs::read_to_string(root().join(file)).expect("the example's file");
        let text = text.replace("127.0.0.1:8080", &address.to_string()).replace("127.0.0.1:9901", &admin.to_string());
        let text = text.replace("../services", "services");
        let file = folder.path().join("gateway.toml");
        fs::write(&file, text).expect("the file can be written");

        let process = Command::new(program).arg("run").arg(&file).stdout(Stdio::null()).spawn().expect("it starts");
        let example = Self { process, address, folder: Some(folder) };
        let ready = || Command::new(program).args(["health", "--admin", &admin.to_string()]).output();
        wait_until(|| ready().is_ok_and(|health| health.status.success()).then_some(()), "the example is ready");
        example
    }

    fn get(&self, path: &str) -> String {
        let mut connection = TcpStream::connect(self.address).expect("the example listens");
        connection.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout can be set");
        write!(connection, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").expect("it reads");
        let mut answer = String::new();
        connection.read_to_string(&mut answer).expect("it answers");
        answer
    }

    /// Asks until the answer ends in this.
    fn until(&self, path: &str, end: &str) {
        wait_until(|| self.get(path).ends_with(end).then_some(()), &format!("{path} answers {end}"));
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Other processes tell nobody when they are done, so they are asked now and then, and not for ever.
fn wait_until<T>(mut ask: impl FnMut() -> Option<T>, what: &str) -> T {
    for _ in 0..200 {
        if let Some(answer) = ask() {
            return answer;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("waited 10 s in vain until {what}");
}

/// Answers every request with its name.
fn upstream(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener.local_addr().expect("a bound socket");
    std::thread::spawn(move || {
        for mut connection in listener.incoming().map_while(Result::ok) {
            let mut request = [0; 4096];
            let _ = connection.read(&mut request);
            let _ = write!(
                connection,
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{name}",
                name.len()
            );
        }
    });
    address
}

fn free_address() -> SocketAddr {
    let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    probe.local_addr().expect("a bound socket")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}
