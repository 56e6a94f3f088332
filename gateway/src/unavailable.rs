//! What a right configuration asks for and this machine does not give.

use std::io::{Error, ErrorKind};

use portcullis_config::AccessLogOutput;
use portcullis_config::units::ListenAddress;

/// Something a plan needs and cannot have. At the start the gateway ends with it; on a reload the old plan keeps serving.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// An address that cannot be bound.
    #[error("listener {listeners} cannot bind {address}: {reason}")]
    Address {
        /// The listeners that want it, as they are to be printed.
        listeners: String,
        /// The address they want.
        address: ListenAddress,
        /// Why not, and what to do.
        reason: String,
    },
    /// The threads that were to serve.
    #[error("cannot start {count} workers: {error}; `workers` in the file sets how many")]
    Workers {
        /// How many were to be started.
        count: usize,
        /// Why not.
        error: Error,
    },
    /// A file that the access log cannot be written to.
    #[error("the access log cannot be written to {output}: {error}")]
    AccessLog {
        /// Where it was to go.
        output: String,
        /// Why not.
        error: Error,
    },
}

impl Unavailable {
    pub(crate) fn address(listeners: &[&str], address: &ListenAddress, reason: String) -> Self {
        let listeners = listeners.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        Self::Address { listeners, address: address.clone(), reason }
    }

    pub(crate) fn access_log(output: &AccessLogOutput, error: Error) -> Self {
        let output = match output {
            AccessLogOutput::File(path) => path.display().to_string(),
            AccessLogOutput::Stdout => "standard output".to_owned(),
            AccessLogOutput::Stderr => "standard error".to_owned(),
            AccessLogOutput::Off => "nowhere".to_owned(),
        };
        Self::AccessLog { output, error }
    }
}

/// Why an address cannot be bound, and what to do.
pub(crate) fn reason(error: &Error) -> String {
    match error.kind() {
        ErrorKind::AddrInUse => {
            "the address is in use; stop the program that has it, or choose another port".to_owned()
        }
        ErrorKind::PermissionDenied => {
            format!("permission denied; ports below 1024 need CAP_NET_BIND_SERVICE ({error})")
        }
        ErrorKind::AddrNotAvailable => "no interface of this machine has that address".to_owned(),
        _ => error.to_string(),
    }
}
