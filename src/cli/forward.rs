//! `pilab forward`: ports of a device on this machine, or one connection on standard input and output.

use super::args::{ForwardArgs, Ports};
use super::client::Client;
use super::error::CliError;
use super::exit::Exit;
use super::local::Local;
use super::login::connect;
use super::run::Interrupts;
use super::tunnel::Tunnel;
use super::ui::Ui;
use crate::model::id::DeviceId;
use crate::support::chain::Chain;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Pause after a connection that could not be taken: too many files are open, say.
const BREATH: Duration = Duration::from_millis(200);

/// Forwards ports.
pub async fn forward(local: &dyn Local, args: ForwardArgs, ui: Ui) -> Result<Exit, CliError> {
    let ForwardArgs { device, ports, bind, stdio, login } = args;
    let client = connect(local, &login).await?;
    if stdio {
        let [port] = ports.as_slice() else {
            return Err(CliError::Usage { what: "--stdio takes one port".to_owned(), hint: None });
        };
        let tunnel = Tunnel::open(&client, &device, port.device).await?;
        tunnel.carry(tokio::io::stdin(), tokio::io::stdout()).await?;
        return Ok(Exit::Ok);
    }
    let interrupts = Interrupts::listen();
    let mut listeners = JoinSet::new();
    for Ports { local, device: port } in ports {
        let address = SocketAddr::new(bind, local);
        let listening = async { TcpListener::bind(address).await.and_then(|l| Ok((l.local_addr()?, l))) };
        let (address, listener) = listening.await.map_err(|error| taken(address, error))?;
        ui.data(&format!("{address} is port {port} of {device}\n"))?;
        listeners.spawn(serve(client.clone(), device.clone(), port, listener, ui));
    }
    interrupts.stop.cancelled().await;
    Ok(Exit::Ok)
}

fn taken(address: SocketAddr, error: io::Error) -> CliError {
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => "name another one before the device's: 0:80 takes any that is free",
        io::ErrorKind::PermissionDenied => "ports below 1024 are root's: 8080:80",
        _ => "--bind takes an address of this machine",
    };
    CliError::local(format!("listen on {address}"), error).with_hint(hint)
}

/// One tunnel for each connection. One that fails is told, and leaves the others alone.
async fn serve(client: Client, device: DeviceId, port: NonZeroU16, listener: TcpListener, ui: Ui) {
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = open.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let (client, device) = (client.clone(), device.clone());
                    open.spawn(async move {
                        if let Err(error) = carry(&client, &device, port, stream).await {
                            ui.error(&error);
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(error = %Chain(&error), "a connection was not taken");
                    sleep(BREATH).await;
                }
            },
        }
    }
}

async fn carry(
    client: &Client,
    device: &DeviceId,
    port: NonZeroU16,
    stream: TcpStream,
) -> Result<(), CliError> {
    let tunnel = Tunnel::open(client, device, port).await?;
    let (from, to) = stream.into_split();
    tunnel.carry(from, to).await
}
